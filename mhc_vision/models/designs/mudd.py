"""MUDD: each block reads weighted sums of all outputs so far, one sum each for queries, keys, values and residual."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import Tensor, nn

from mhc_vision.kernels.precision import full_precision
from mhc_vision.layers.connection import ConnectionModule, parameter_dtype
from mhc_vision.models.designs.block import DesignedBlock

History = tuple[Tensor, ...]
"""Embedding and outputs of all blocks so far."""
WAYS = 4
"""Queries, keys, values and the residual: the inputs of a block."""


class DepthAggregate(ConnectionModule):
    """Weighted sums of the outputs X_0, ..., X_i so far, with weights made by each token (Eq. 5, 6 and 8).

        A = GELU(rms_norm(X_i) W1) W2 + a
        X̄ = Σ_j A_j X_j                       for each way

    The hidden width is 4(i + 1). Starts as X̄ = X_i: W1 ~ N(0, 1/C), W2 = 0, and a is 1 for X_i and 0 for the others
    (Sec. 3).

    Args:
        dim: channels C.
        num_outputs: i + 1, the embedding included.
        num_ways: sums, each with its own weights.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.
    """

    def __init__(
        self,
        dim: int,
        num_outputs: int,
        num_ways: int = WAYS,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = (num_ways, num_outputs)
        dtype = parameter_dtype(dtype)
        width = WAYS * num_outputs
        self.hidden = nn.Linear(dim, width, bias=False, device=device, dtype=dtype)
        self.dynamic = nn.Linear(width, num_ways * num_outputs, bias=False, device=device, dtype=dtype)
        self.static = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The published start, at which every sum is the last output."""
        nn.init.normal_(self.hidden.weight, std=self.hidden.in_features**-0.5)
        nn.init.zeros_(self.dynamic.weight)
        self.static.zero_()[:, -1] = 1.0

    def weights(self, last: Tensor) -> Tensor:
        """A: (..., C) -> (..., ways, outputs)."""
        last = last.to(self.static.dtype)
        hidden = F.gelu(self.hidden(F.rms_norm(last, last.shape[-1:], eps=1e-6)))
        return self.dynamic(hidden).unflatten(-1, self.shape) + self.static

    def forward(self, history: History) -> Tensor:
        """i + 1 outputs (..., C) -> (..., ways, C)."""
        return _aggregate(history[-1], history, self)


@full_precision
def _aggregate(last: Tensor, history: History, aggregate: DepthAggregate) -> Tensor:
    return aggregate.weights(last).to(last.dtype) @ torch.stack(history, -2)


class QkvLinear(nn.Linear):
    """timm's `attn.qkv` for three inputs: the same weight, each third of it applied to an input of its own."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, N, 3 C), inputs of queries, keys and values side by side -> (B, N, 3, D)."""
        inputs = input.unflatten(-1, (3, -1)).movedim(-2, 0).flatten(1, 2)
        weight = self.weight.unflatten(0, (3, -1)).mT
        if self.bias is None:
            outputs = inputs @ weight
        else:
            outputs = torch.baddbmm(self.bias.unflatten(0, (3, 1, -1)), inputs, weight)
        # timm's attention splits it into heads from here as from (B, N, 3 D)
        return outputs.unflatten(1, input.shape[:2]).movedim(0, -2)


class MuddBlock(DesignedBlock):
    """timm's `Block` with multiway dynamic dense connections (MUDDFormer, Xiao et al., arXiv 2502.12170, Eq. 7-8).

        H   = MHA(LN(X̄^Q), LN(X̄^K), LN(X̄^V)) + X̄^R
        X_i = MLP(LN(H)) + H

    The inputs are the sums of `DepthAggregate` over the outputs of all blocks before; all four are X_0, the embedding,
    in the first block, and the model reads X̄^R out after the last. All three inputs of attention go through the one
    `norm1`; scales of their own could be part of `attn.qkv`. The paper's optional parts are not here: wider MLPs in
    later blocks (Sec. 2.4) and norms around the sums (Sec. 2.5).
    """

    starts_plain = True
    aggregate: DepthAggregate | None
    read_out: DepthAggregate | None

    def check(self) -> None:
        """Raise ValueError unless queries, keys and values come from one `attn.qkv`."""
        if type(self.attn) is not Attention or type(self.attn.qkv) is not nn.Linear or self.attn.gate is not None:
            raise ValueError(f"attn: got {type(self.attn).__name__}, expected timm's Attention without a gate for mudd")

    def connect(self, depth: int, num_blocks: int, dim: int, num_streams: int) -> None:
        """Add the sums that the block reads, to the last one the read-out; `num_streams` is not looked at."""
        like = next(self.parameters())
        self.aggregate = self.read_out = None
        if depth + 1 == num_blocks:
            self.read_out = DepthAggregate(dim, depth + 2, 1, like.device, like.dtype)
        if depth > 0:
            self.aggregate = DepthAggregate(dim, depth + 1, WAYS, like.device, like.dtype)
            self.attn.qkv.__class__ = QkvLinear

    def forward(self, x: Any, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """i outputs (B, N, C) so far -> i + 1; tokens (B, N, C) enter the first block and leave the last."""
        history: History = (x,) if self.aggregate is None else x
        if self.aggregate is None:
            residual, read = x, self.norm1(x)
        else:
            attended, residual = self.aggregate(history).split([WAYS - 1, 1], -2)
            residual, read = residual.squeeze(-2), self.norm1(attended).flatten(-2)
        x = residual + self.drop_path1(self.ls1(self.attn(read, attn_mask=attn_mask, is_causal=is_causal)))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        history = (*history, x)
        return history if self.read_out is None else self.read_out(history).squeeze(-2)
