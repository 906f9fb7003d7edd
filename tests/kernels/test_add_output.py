import pytest
import torch
from torch.autograd import gradcheck

from mhc_vision.kernels import add_output, merge_streams


def arguments(n, dim=5, leading=(2, 3), dtype=torch.float64, shared=False):
    """Streams, branch output, post; one per token, or one for all tokens."""
    shapes = [(*leading, n, dim), (*leading, dim), (n,) if shared else (*leading, n)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("shared", [False, True], ids=["map per token", "shared map"])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_merges_with_the_identity(n, shared):
    streams, output, post = arguments(n, shared=shared)
    expected = merge_streams(streams, output, torch.eye(n, dtype=torch.float64), post)
    torch.testing.assert_close(add_output(streams, output, post), expected, rtol=0, atol=1e-14)
    assert gradcheck(add_output, (streams, output, post))


def test_bf16_streams_are_rounded_once_and_autocast_rounds_nothing():
    streams, output, post = (tensor.detach() for tensor in arguments(4, 64, (50,), torch.float32))
    exact = streams.bfloat16().double() + post.double().unsqueeze(-1) * output.bfloat16().double().unsqueeze(-2)
    added = add_output(streams.bfloat16(), output.bfloat16(), post)
    assert added.dtype == torch.bfloat16
    # fp32 arithmetic may fall on the other side of a tie
    assert (added == exact.bfloat16()).float().mean() > 0.999
    expected = add_output(streams, output, post)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(add_output(streams, output, post), expected)


def test_compiled_form_is_the_same():
    args = arguments(4, 8)
    compiled, weights = torch.compile(add_output, fullgraph=True, backend="aot_eager"), torch.randn_like(args[0])
    torch.testing.assert_close(compiled(*args), add_output(*args), rtol=0, atol=1e-14)
    gradients = torch.autograd.grad(compiled(*args), args, weights)
    torch.testing.assert_close(gradients, torch.autograd.grad(add_output(*args), args, weights), rtol=0, atol=1e-12)


def test_names_bad_input():
    streams, output, post = arguments(4)
    with pytest.raises(ValueError, match=r"output: got shape \(2, 3, 6\), expected \(2, 3, 5\)"):
        add_output(streams, torch.zeros(2, 3, 6), post)
    with pytest.raises(ValueError, match=r"post: got shape \(3,\), expected \(2, 3, 4\) or \(4,\)"):
        add_output(streams, output, torch.zeros(3))
