"""Attention residuals: each branch reads the embedding and all branch outputs so far by softmax attention over them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mhc_vision.kernels.precision import accumulation_dtype, full_precision
from mhc_vision.layers.connection import ConnectionModule, parameter_dtype
from mhc_vision.models.designs.block import DesignedBlock


class Source(NamedTuple):
    """What can be read: the embedding, or the output of a branch."""

    value: Tensor
    """v: (B, N, C)."""
    inverse_rms: Tensor
    """1 / sqrt(mean(v²) + 1e-6): (B, N). Its key is v times this and times a scale."""


class Reading(NamedTuple):
    """What a reader has read so far."""

    tokens: Tensor
    """Sum of the sources, each with its weight: (B, N, C)."""
    log_total: Tensor
    """Logarithm of the sum of exp(logit): (B, N)."""
    query: Tensor
    """Of the reader, times the scale of its keys: (C,)."""


@full_precision
def as_source(value: Tensor) -> Source:
    """(B, N, C) with its root mean square."""
    norm = torch.linalg.vector_norm(value, dim=-1, dtype=accumulation_dtype(value.dtype))
    return Source(value, (norm.square() / value.shape[-1] + 1e-6).rsqrt())


@full_precision
def read_one_more(tokens: Tensor, reading: Reading, source: Source) -> Reading:
    """The softmax attention of a reader over one source more; `tokens` are those of `reading`."""
    logit = source.value.to(reading.query.dtype) @ reading.query * source.inverse_rms
    share = torch.sigmoid(logit - reading.log_total).to(tokens.dtype)
    mixed = torch.lerp(tokens, source.value.to(tokens.dtype), share.unsqueeze(-1))
    return Reading(mixed, torch.logaddexp(reading.log_total, logit), reading.query)


class DepthAttention(ConnectionModule):
    """Softmax attention of learned queries over all sources so far, for several readers in one pass (Eq. 2-4).

        h = Σ_i α_i v_i    with α = softmax_i(w · rms_norm(v_i))

    The norm has a scale. Queries w start at zero, so that a reader starts with the mean of its sources (Sec. 5).

    Args:
        dim: channels C.
        num_readers: queries, each with a scale of the norm.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.
    """

    def __init__(
        self, dim: int, num_readers: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_readers, dim, device=device, dtype=parameter_dtype(dtype)))
        self.key_scales = nn.Parameter(torch.empty_like(self.queries))
        self.init_weights()

    def init_weights(self) -> None:
        """The published start: w = 0, and a scale of one."""
        nn.init.zeros_(self.queries)
        nn.init.ones_(self.key_scales)

    def forward(self, history: tuple[Source, ...]) -> list[Reading]:
        """Sources -> what each reader reads."""
        return _read(history[0].value, history, self.queries * self.key_scales)


@full_precision
def _read(embedding: Tensor, history: tuple[Source, ...], queries: Tensor) -> list[Reading]:
    values = torch.stack([source.value.to(embedding.dtype) for source in history], -2)  # (B, N, sources, C)
    inverse_rms = torch.stack([source.inverse_rms for source in history], -1)
    logits = (values.to(queries.dtype) @ queries.T * inverse_rms.unsqueeze(-1)).mT  # (B, N, readers, sources)
    tokens = logits.softmax(-1).to(values.dtype) @ values
    return list(map(Reading, tokens.unbind(-2), logits.logsumexp(-1).unbind(-1), queries.unbind()))


class AttnResBlock(DesignedBlock):
    """timm's `Block` with full attention residuals (Kimi Team, arXiv 2603.15031, Sec. 3.1).

    Nothing is added up: attention and MLP each read the embedding v_0 and the outputs v_1, v_2, ... of all branches
    before by `DepthAttention`, and so does the model after the last block. Attention of the first block has v_0 alone
    to read. **This is not the plain model at its start**, but one whose branches read means.

    The readers of a block look at the sources before it together, and at what comes out inside it one by one, which
    gives the same sums (the paper's two phases, Sec. 4).
    """

    def connect(self, depth: int, num_blocks: int, dim: int, num_streams: int) -> None:
        """Add readers: attention after the first block, the MLP, the model in the last one."""
        like = next(self.parameters())
        self.is_first, self.is_last = depth == 0, depth + 1 == num_blocks
        self.depth_attention = DepthAttention(dim, 2 - self.is_first + self.is_last, like.device, like.dtype)

    def forward(self, x: Any, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Sources so far -> and two more; tokens (B, N, C) enter the first block and leave the last."""
        history: tuple[Source, ...] = (as_source(x),) if self.is_first else x
        readings = self.depth_attention(history)
        tokens = x if self.is_first else readings.pop(0).tokens
        output = self.attn(self.norm1(tokens), attn_mask=attn_mask, is_causal=is_causal)
        attended = as_source(self.drop_path1(self.ls1(output)))
        tokens = read_one_more(readings[0].tokens, readings[0], attended).tokens
        output = as_source(self.drop_path2(self.ls2(self.mlp(self.norm2(tokens)))))
        if not self.is_last:
            return (*history, attended, output)
        for source in (attended, output):
            readings[1] = read_one_more(readings[1].tokens, readings[1], source)
        return readings[1].tokens
