"""Hyper-connected `Eva` models, whose loop over the blocks their stack runs, against timm's loop."""

import pytest
import torch
from families import EVA
from timm.models.eva import Eva

from mhc_vision.layers.blocks import stack

OPTIONS = [
    {},
    {"rope_type": "mixed", "rope_rotate_half": False},
    {"rope_type": "mixed", "rope_rotate_half": False, "patch_drop_rate": 0.5, "drop_path_rate": 0.5},
    {"patch_drop_rate": 0.5, "stream_reduce": "gated"},
    {"use_rot_pos_emb": False, "stream_expand": "scaled", "stream_reduce": "sum"},
]


@pytest.fixture
def chained(monkeypatch) -> list[int]:
    """Grows with each stack that runs from branch to branch on a CPU."""
    runs, run = [], stack.run_chained
    monkeypatch.setattr(stack, "run_chained", lambda blocks, *rest: runs.append(len(blocks)) or run(blocks, *rest))
    return runs


MASKS = [{"is_causal": True}, {"attn_mask": torch.ones(21, 21).tril().bool()}]


@pytest.mark.parametrize(
    ("options", "mask"), [(options, {}) for options in OPTIONS] + [(OPTIONS[1], mask) for mask in MASKS], ids=str
)
def test_chained_on_a_cpu_is_timms_loop(options, mask, trained_like, chained):
    model = trained_like(EVA.connected("mhc", constraint="identity", **options)).double().train()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    results = []
    for forward in (model.forward_features, lambda x, **mask: Eva.forward_features(model, x, **mask)):
        model.zero_grad()
        torch.manual_seed(1)
        features = forward(x, **mask)
        features.square().sum().backward()
        results.append([features, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert chained == [len(model.blocks)]
    # fp64 rounding, which norms of small branch outputs enlarge
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)


def test_checkpointing_and_features_run_block_by_block(trained_like, chained):
    model = trained_like(EVA.connected("mhc", constraint="identity")).double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = model(x)
    assert chained == [2]
    _, (_, last) = model.forward_intermediates(x, output_fmt="NLC", norm=True)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), expected)
    torch.testing.assert_close(last, model.forward_features(x)[:, model.num_prefix_tokens :])
    assert chained == [2]
