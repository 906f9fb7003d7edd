from torch import nn

from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.model_class_names import names_of_classes


def loaded(source: str, num_classes: int, **class_index: int) -> LoadedModel:
    settings = (224, 0.9, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    return LoadedModel(nn.Identity(), source, num_classes, 3, class_index, *settings)


def test_the_models_own_names_count():
    assert names_of_classes(loaded("checkpoint x.ckpt", 3, cat=0, dog=1, owl=2)) == ["cat", "dog", "owl"]
    # some timm models have names for some of their classes
    assert names_of_classes(loaded("local-dir:x", 3, owl=2)) == ["0", "1", "owl"]


def test_timms_own_weights_of_imagenet_have_its_descriptions():
    labels = names_of_classes(loaded("vit_base_patch16_224_mhc.augreg2_in21k_ft_in1k", 1000))
    assert labels is not None
    assert (len(labels), labels[281]) == (1000, "tabby, tabby cat")
    # a thousand classes of anything
    for source in ("checkpoint x.ckpt", "local-dir:vit_base_patch16_224"):
        assert names_of_classes(loaded(source, 1000)) is None
    assert names_of_classes(loaded("vit_base_patch16_224", 7)) is None
