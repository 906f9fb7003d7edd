import pytest
import timm

from mhc_vision.finetuning.methods import choose_parameters
from mhc_vision.models.lora import LoraOptions


@pytest.mark.parametrize("method", ["linear", "knn", "lora"])
def test_both_heads_of_a_distilled_model_learn_where_a_head_does(method):
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    choose_parameters(model, method, LoraOptions())
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning - {"blocks"} == (set() if method == "knn" else {"head", "head_dist"})
