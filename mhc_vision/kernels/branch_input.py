"""Branch input: the logits of a connection and what its branch reads, in one op.

The op hands the streams on. If the streams it returns are merged, and not those it was given, each stream tensor has a
single consumer: its gradient is summed in one buffer here, not by autograd, term by term.
"""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import compiled, reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.custom_ops.branch_input import BranchInput
from mhc_vision.kernels.logits import check_logit_parameters, prepared_arguments, tokens_first
from mhc_vision.kernels.precision import accumulation_dtype, full_precision
from mhc_vision.kernels.weight_gradients import hold


def branch_input(
    streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the streams, and the streams read with pre = σ of the first n of them.

    The same as `stream_logits` and `read_streams` one after the other (mHC, arXiv 2512.24880, Eq. 14-17, 3).

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        weight: φᵀ, (k, n*C), k >= n; the first n rows belong to `pre`.
        scale: α, (k,), one per logit.
        bias: b, (k,).
        eps: added to the mean square, positive.
        dtype: of u; None is that of the streams.

    Returns:
        u, (..., C), rounded once; the logits after the first n, (..., k - n), fp32 or fp64; and the streams, to be
        merged after the branch.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices, or `eps` out
            of range.
    """
    return (
        reference.branch_input(streams, weight, scale, bias, eps, dtype)
        if torch.jit.is_scripting()
        else _unscripted(streams, weight, scale, bias, eps, dtype)
    )


def _unscripted(
    streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    if is_traced():
        return reference.branch_input(streams, weight, scale, bias, eps, dtype)
    check_logit_parameters(streams, weight, scale, bias, eps)
    *leading, n, dim = streams.shape
    if bias.numel() < n:
        raise ValueError(f"bias: got {bias.numel()} logits, expected at least n = {n} for pre")
    if runs_triton(streams, dim):
        given = prepared_arguments(streams, weight, scale, bias, eps)
        parameters, held = hold(streams, *given[1:4])
        tokens, rest, handed_on = BranchInput.apply(given[0], *parameters, *given[4:], True, dtype, held)
        return tokens.view(*leading, dim), tokens_first(rest, streams), handed_on.view(streams.shape)
    op = compiled.branch_input if torch.compiler.is_compiling() else _BranchInput.apply
    return full_precision(op)(streams, weight, scale, bias, eps, dtype)


class _BranchInput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        streams: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        eps: float,
        tokens_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, dim = streams.shape[-2:]
        dtype = accumulation_dtype(streams.dtype)
        x = streams.reshape(-1, n, dim).to(dtype)
        flat = x.flatten(1)
        products = torch.mm(flat, weight.t().to(dtype))
        square_norm = torch.linalg.vector_norm(flat, dim=-1, keepdim=True).square_()
        inverse_rms = square_norm.div_(n * dim).add_(eps).rsqrt_()
        logits = torch.addcmul(bias.to(dtype), products * scale.to(dtype), inverse_rms)
        pre = torch.sigmoid(logits[:, :n])
        leading = streams.shape[:-2]
        # allocated in its final shape: the branch could not change a view in place
        tokens = torch.empty(*leading, dim, dtype=dtype, device=x.device)
        torch.bmm(pre.unsqueeze(1), x, out=tokens.view(-1, 1, dim))
        ctx.save_for_backward(streams, weight, scale, products, inverse_rms, pre)
        ctx.bias_dtype = bias.dtype
        rest = logits[:, n:].reshape(*leading, logits.shape[1] - n)
        return tokens.to(tokens_dtype or streams.dtype), rest, streams.view_as(streams)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_streams, d_weight, d_scale, d_bias = _branch_input_backward(
            *gradients, *ctx.saved_tensors, ctx.needs_input_grad[1]
        )
        return d_streams, d_weight, d_scale, d_bias.to(ctx.bias_dtype), None, None


@full_precision
def _branch_input_backward(
    d_tokens: Tensor,
    d_rest: Tensor,
    d_handed_on: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    products: Tensor,
    inverse_rms: Tensor,
    pre: Tensor,
    learn_weight: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of streams, weight (if it is learned), scale and bias from those of the three results."""
    n, dim = streams.shape[-2:]
    dtype = products.dtype
    x = streams.reshape(-1, n, dim).to(dtype)
    flat = x.flatten(1)
    d_tokens = d_tokens.reshape(-1, 1, dim).to(dtype)

    d_pre = torch.bmm(d_tokens, x.transpose(1, 2)).squeeze(1)
    d_pre_logits = d_pre.mul_(pre).mul_(1.0 - pre)
    d_logits = torch.cat([d_pre_logits, d_rest.reshape(-1, products.shape[1] - n)], 1)
    d_normed = d_logits * inverse_rms
    d_scale = (d_normed * products).sum(0)
    d_products = d_normed.mul_(scale.to(dtype))
    # of the inverse RMS 1/r: d(1/r)/dX = -X / (r³ n C)
    along_x = (d_products * products).sum(1, keepdim=True).mul_(inverse_rms.square()).div_(-n * dim)

    # the four terms of the streams' gradient, summed in one buffer
    d_flat = torch.mm(d_products, weight.to(dtype))
    d_flat.add_(d_handed_on.reshape(d_flat.shape)).addcmul_(flat, along_x)
    d_flat.view(x.shape).addcmul_(pre.unsqueeze(-1), d_tokens)
    return (
        d_flat.to(streams.dtype).view(streams.shape),
        torch.mm(d_products.t(), flat).to(weight.dtype) if learn_weight else None,
        d_scale.to(scale.dtype),
        d_logits.sum(0),
    )
