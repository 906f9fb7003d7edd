"""AltUp: alternating updates of one of several streams, with predictions for the others."""

import torch
from torch import Tensor, nn

from mhc_vision.kernels import Coefficients
from mhc_vision.layers import HyperConnection, StreamExpansion, StreamReduction
from mhc_vision.layers.connection import parameter_dtype
from mhc_vision.models.designs.block import DesignedBlock


class AltUpConnection(HyperConnection):
    """Predict and correct around a whole layer L (Baykal et al., arXiv 2301.13310, Alg. 1), as a hyper-connection.

        predict:  x̂_i = Σ_j p_ij x_j            for each of the K streams
        compute:  x̃_{j*} = L(x_{j*})            on one stream, j* = layer_index mod K
        correct:  x_i' = x̂_i + g_i (x̃_{j*} - x̂_{j*})

    p (K, K) and g (K,) are parameters. With L(x) = x + f(x) this is a static hyper-connection around f, one for each
    block instead of one for each branch: `pre` is the constant e_{j*}, `post` = g and
    `res` = P + g (e_{j*} - p_{j*})ᵀ, where p_{j*} is row j* of P.

    Starts as P = I and g = 1: equal streams then all become L(x), as in a plain transformer. The paper names no start.

    Args:
        dim: channels C of a stream.
        num_streams: K, from 1 to 8.
        layer_index: which layer of the network this is, counted from 0.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: `dim`, `num_streams` or `layer_index` out of range.
    """

    active: Tensor

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        layer_index: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, num_streams, layer_index, learn_pre=False)
        dtype = parameter_dtype(dtype)
        self.predict = nn.Parameter(torch.empty(num_streams, num_streams, device=device, dtype=dtype))
        self.correct = nn.Parameter(torch.empty(num_streams, device=device, dtype=dtype))
        self.register_buffer("active", torch.empty(num_streams, device=device, dtype=dtype), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """P = I, g = 1, and e_{j*}."""
        nn.init.eye_(self.predict)
        nn.init.ones_(self.correct)
        self.active.zero_()[self.layer_index % self.num_streams] = 1.0

    def coefficients(self, streams: Tensor) -> Coefficients:
        """The maps around f: shapes (K,), (K,), (K, K), one for all tokens."""
        res = self.predict + torch.outer(self.correct, self.active - self.active @ self.predict)
        return Coefficients(self.active, self.correct, res)


class AltUpBlock(DesignedBlock):
    """timm's `Block` as the layer L of `AltUpConnection`.

    The first block of a stack copies tokens into streams and the last reads out their mean. Recycled-AltUp (Sec. 4.1 of
    the paper) copies and sums; the final norm of a ViT takes the factor K out.
    """

    starts_plain = True

    def connect(self, depth: int, num_blocks: int, dim: int, num_streams: int) -> None:
        """Add the connection of the layer, and what the ends of a stack do."""
        like = next(self.parameters())
        self.expansion: nn.Module = nn.Identity() if depth > 0 else StreamExpansion(num_streams)
        self.connection = AltUpConnection(dim, num_streams, depth, like.device, like.dtype)
        self.reduction: nn.Module = nn.Identity() if depth + 1 < num_blocks else StreamReduction("mean")

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, K, C) -> (B, N, K, C); tokens (B, N, C) enter the first block and leave the last."""
        tokens, streams, res, post = self.connection.open(self.expansion(x))
        output = self.attn(self.norm1(tokens), attn_mask=attn_mask, is_causal=is_causal)
        output = self.drop_path1(self.ls1(output))
        output = output + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens + output))))
        return self.reduction(self.connection.merge(streams, output, res, post))
