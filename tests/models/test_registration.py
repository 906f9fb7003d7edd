import subprocess
import sys

import pytest
import timm
import torch

from mhc_vision.layers import CONNECTIONS, connection_parameters
from mhc_vision.models.architectures import EVAS, VISION_TRANSFORMERS

NAMES = [*VISION_TRANSFORMERS, *EVAS]
# what a name, and not its weights or input, is made of
OWN = {"architecture"}


@pytest.mark.parametrize("base", NAMES)
def test_registered_models_are_timms_models_plus_connections(base):
    with torch.device("meta"):
        plain = timm.create_model(base)
    for connection in CONNECTIONS:
        name = f"{base}_{connection}"
        with torch.device("meta"):
            hyper = timm.create_model(name)
        added = {key for key, _ in connection_parameters(hyper)}
        assert all(".connection" in key for key in added)
        ours = {key: value.shape for key, value in hyper.state_dict().items() if key not in added}
        assert ours == {key: value.shape for key, value in plain.state_dict().items()}
        # options without parameters (heads, eps, pooling, rotary settings) show in the printed modules
        assert str(hyper.patch_embed) == str(plain.patch_embed)
        for part in ("norm1", "attn", "mlp"):
            assert str(getattr(hyper.blocks[0], part)) == str(getattr(plain.blocks[0], part))
            assert hyper.blocks[0].attn.num_heads == plain.blocks[0].attn.num_heads
        assert (hyper.global_pool, hyper.num_prefix_tokens) == (plain.global_pool, plain.num_prefix_tokens)
        cfg, plain_cfg = ({key: m.default_cfg[key] for key in m.default_cfg.keys() - OWN} for m in (hyper, plain))
        assert cfg == plain_cfg


@pytest.mark.parametrize("base", NAMES)
def test_tags_are_timms_and_point_at_the_plain_weights(base):
    plain = timm.models.get_arch_pretrained_cfgs(base) if hasattr(timm.models, "get_arch_pretrained_cfgs") else None
    if plain is None:
        from timm.models._registry import get_arch_pretrained_cfgs

        plain = get_arch_pretrained_cfgs(base)
    for connection in CONNECTIONS:
        for name, cfg in plain.items():
            own = timm.get_pretrained_cfg(name.replace(base, f"{base}_{connection}", 1))
            assert (own.hf_hub_id, own.url, own.tag) == (cfg.hf_hub_id, cfg.url, cfg.tag)
            assert own.hf_hub_id is None or own.hf_hub_id.startswith("timm/vit_") or "test_vit" in own.hf_hub_id
            assert timm.is_model_pretrained(f"{base}_{connection}") == timm.is_model_pretrained(base)


def test_import_adds_names_and_changes_nothing_else_in_timms_registry():
    code = """
import copy, warnings
import timm
from timm.models import _registry
names = [name for name, value in vars(_registry).items() if isinstance(value, (dict, set)) and name.startswith("_")
         and not name.startswith("__")]
before = {name: copy.deepcopy(getattr(_registry, name)) for name in names}
warnings.simplefilter("error")
import mhc_vision
suffixes = ("_shc", "_dhc", "_mhc")
for name in names:
    now = getattr(_registry, name)
    for key in before[name]:
        assert key in now, (name, key)
        if isinstance(now, dict):
            assert now[key] == before[name][key], (name, key)
    for key in set(now) - set(before[name]):
        assert key.partition(".")[0].endswith(suffixes), (name, key)
print("same")
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "same"


def test_an_unknown_argument_is_timms_error_and_ours():
    with pytest.raises(TypeError, match=r"sinkhorn_iter: got 3, .*; nearest: sinkhorn_iters") as refused:
        timm.create_model("test_vit_mhc", sinkhorn_iter=3)
    assert isinstance(refused.value, ValueError)
