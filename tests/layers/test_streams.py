import pytest
import torch

from mhc_vision.layers import create_expansion, create_reduction, expand_streams, reduce_streams


def test_expand_copies_tokens_into_contiguous_streams():
    x = torch.randn(2, 3, 5)
    streams = expand_streams(x, 4)
    assert streams.shape == (2, 3, 4, 5)
    assert streams.is_contiguous()
    assert all(torch.equal(streams[:, :, i], x) for i in range(4))


def test_scaled_expansion_tells_streams_apart_by_learned_scales():
    """Each stream is x ∘ w_s with w = 0.6 + noise of variance 2 / (n + C)."""
    torch.manual_seed(0)
    expansion = create_expansion("scaled", 512, 4)
    x = torch.randn(2, 3, 512)
    streams = expansion(x)
    expected = torch.stack([x * expansion.scale[i] for i in range(4)], -2)
    assert torch.equal(streams, expected)
    deviation = (2 / 516) ** 0.5
    # 2048 draws: the standard errors are 0.022 and 0.016 deviations
    assert expansion.scale.mean().item() == pytest.approx(0.6, abs=0.1 * deviation)
    assert expansion.scale.std().item() == pytest.approx(deviation, rel=0.1)
    streams.square().sum().backward()
    assert (expansion.scale.grad != 0).all()


def test_scaled_expansion_keeps_the_dtype_of_tokens_and_fp32_scales():
    expansion = create_expansion("scaled", 8, 2, dtype=torch.bfloat16)
    assert expansion.scale.dtype == torch.float32
    x = torch.randn(3, 8).bfloat16()
    assert torch.equal(expansion(x), (x.unsqueeze(-2).float() * expansion.scale).bfloat16())


def test_reduce():
    streams = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(reduce_streams(streams), streams.sum(-2) / 4)
    torch.testing.assert_close(reduce_streams(streams, "sum"), sum(streams.unbind(-2)))


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
def test_gated_reduction_starts_as_the_mean_and_learns(num_streams):
    reduction = create_reduction("gated", 16, num_streams)
    streams = torch.randn(2, 3, num_streams, 16)
    # for one stream the gate is σ(10) = 0.99995
    torch.testing.assert_close(reduction(streams), streams.mean(-2), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        reduction.weight.normal_()
    reduction(streams).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in reduction.parameters())


def test_bad_modes_and_sizes_are_named():
    with pytest.raises(ValueError, match="mode: got 'max', expected 'mean' or 'sum'"):
        reduce_streams(torch.zeros(1, 4, 2), "max")
    with pytest.raises(ValueError, match="stream_reduce: got 'max', expected one of mean, sum, gated"):
        create_reduction("max", 8, 4)
    with pytest.raises(ValueError, match="stream_expand: got 'scale', expected one of copy, scaled; nearest: scaled"):
        create_expansion("scale", 8, 4)
    with pytest.raises(ValueError, match="dim: got 0"):
        create_expansion("scaled", 0, 4)
    with pytest.raises(ValueError, match="num_streams: got 9"):
        expand_streams(torch.zeros(1, 2), 9)
