"""One layer boundary through ours and through others' mHC: merge, then coefficients, read and LayerNorm of the result.

An adapter takes a `Problem` and returns the function to time: it makes [X', y, post', res'] (ours: logits for the two
maps) and the tensors to differentiate. All others keep `res` transposed in a projection, or normalise its rows first on
a matrix that is not transposed; both are our function when the rows of φ are those of the transposed matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.kernels import boundary, reference, stream_coefficients
from mhc_vision.kernels.boundary import Connection, Merge, Norm

# the kernels of some take no other number of streams
NUM_STREAMS, NUM_ITERS, EPS = 4, 20, 1e-6
Results = list[Tensor]


def maps(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(M, n + n*n) -> post (M, n) and res (M, n, n)."""
    post, res = logits.split([NUM_STREAMS, NUM_STREAMS**2], -1)
    square = res.unflatten(-1, (NUM_STREAMS, NUM_STREAMS))
    return 2 * torch.sigmoid(post), reference.sinkhorn_knopp(square, NUM_ITERS)


@dataclass
class Problem:
    """Inputs of a boundary: M tokens, n streams, C channels, k = 2n + n*n logits; maps in fp32."""

    streams: Tensor  # (M, n, C)
    output: Tensor  # (M, C)
    logits: Tensor  # (n + n*n, M)
    weight: Tensor  # (k, n*C)
    scale: Tensor  # (3,)
    bias: Tensor  # (k,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """Those of the logits."""
        return maps(self.logits.t())

    @property
    def row_scale(self) -> Tensor:
        """One scale for each logit, (k,)."""
        n = self.streams.shape[1]
        return self.scale.repeat_interleave(torch.tensor([n, n, n * n], device=self.scale.device))

    def norm(self, tokens: Tensor) -> Tensor:
        """LayerNorm, for those who have none."""
        weight, bias = self.norm_weight.to(tokens.dtype), self.norm_bias.to(tokens.dtype)
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, EPS)

    def transposed(self, tensor: Tensor) -> Tensor:
        """φᵀ or the bias with the rows of `res` in [in, out] order."""
        n = self.streams.shape[1]
        res = tensor[2 * n :].unflatten(0, (n, n)).transpose(0, 1).flatten(0, 1)
        return torch.cat([tensor[: 2 * n], res]).contiguous()


def random_problem(num_tokens: int, dim: int, dtype: torch.dtype, device: str) -> Problem:
    """Values of the size that they have in a network."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    n = NUM_STREAMS
    k = 2 * n + n * n
    return Problem(
        random(num_tokens, n, dim).to(dtype),
        random(num_tokens, dim).to(dtype),
        random(n + n * n, num_tokens),
        random(k, n * dim) / (n * dim) ** 0.5,
        torch.tensor([0.8, 1.0, 1.2], device=device),
        random(k),
        1 + 0.1 * random(dim),
        random(dim),
    )


@dataclass
class Prepared:
    """What to call, what to differentiate ([X, f, φ] first), and how to bring φ's gradient into our order."""

    run: Callable[[], Results]
    inputs: list[Tensor]
    to_our_order: Callable[[Tensor], Tensor] = lambda gradient: gradient


def leaf(tensor: Tensor) -> Tensor:
    """A copy that asks for a gradient."""
    return tensor.detach().clone().requires_grad_()


def ours(problem: Problem) -> Prepared:
    """The fused op of this library."""
    given = [leaf(t) for t in (problem.streams, problem.output, problem.weight, problem.logits)]
    streams, output, weight, logits = given
    merge = Merge(output[None], logits, num_iters=NUM_ITERS)
    connection = Connection(weight, problem.row_scale, problem.bias)
    norm = Norm(problem.norm_weight, problem.norm_bias)

    def run() -> Results:
        made = boundary(streams[None], merge, connection, norm)
        return [made[0][0], made[1][0], made[2]]

    return Prepared(run, given)


def plain(problem: Problem, dtype: torch.dtype | None = None) -> Prepared:
    """The formulas in plain PyTorch; with a dtype, everything in that dtype."""
    numbers = [problem.streams, problem.output, problem.weight, *problem.maps]
    streams, output, weight, post, res = given = [leaf(t if dtype is None else t.to(dtype)) for t in numbers]
    others = (problem.scale, problem.bias, problem.norm_weight, problem.norm_bias)
    scale, bias, norm_weight, norm_bias = (t if dtype is None else t.to(dtype) for t in others)

    def run() -> Results:
        merged = reference.merge_streams(streams, output, res, post)
        if dtype is not None:
            # the streams that are read again have been rounded
            merged = merged + (merged.detach().to(problem.streams.dtype) - merged.detach())
        coefficients = stream_coefficients(merged, weight, scale, bias, NUM_ITERS, EPS)
        tokens = reference.read_streams(merged, coefficients.pre)
        normed = F.layer_norm(tokens, tokens.shape[-1:], norm_weight.to(tokens), norm_bias.to(tokens), EPS)
        return [merged, normed, coefficients.post, coefficients.res]

    return Prepared(run, given)


def liger(problem: Problem) -> Prepared:
    """Liger-Kernel: φ in the dtype of the streams, as it advises; Sinkhorn with rows first."""
    from liger_kernel.transformers import functional as liger_functional

    dtype = problem.streams.dtype
    post, res = problem.maps
    weight = problem.transposed(problem.weight).t().contiguous().to(dtype)
    given = [leaf(t) for t in (problem.streams, problem.output, weight, post, res)]
    streams, output, phi, post, res = given
    scale, bias = problem.scale.unbind(), problem.transposed(problem.bias)
    options = {"tmax": NUM_ITERS, "rms_eps": EPS, "sinkhorn_eps": 0.0, "allow_fp32": dtype == torch.float32}

    def run() -> Results:
        merged = liger_functional.liger_mhc_post_res(streams, output, post, res)
        new_pre, new_post, new_res = liger_functional.liger_mhc_coeffs(merged, phi, bias, *scale, **options)
        tokens = liger_functional.liger_mhc_pre(merged, new_pre)
        return [merged, problem.norm(tokens), new_post, new_res.transpose(1, 2)]

    return Prepared(run, given, lambda gradient: problem.transposed(gradient.t()))


def tile_kernels(problem: Problem) -> Prepared:
    """DeepSeek's TileKernels; its fused sum of the streams' gradients needs a whole network, so autograd sums here."""
    from tile_kernels.modeling.mhc import ops

    n = problem.streams.shape[1]
    post, res = problem.maps
    numbers = (problem.streams[None], problem.output[None], problem.transposed(problem.weight))
    given = [leaf(t) for t in (*numbers, post[None, ..., None], res.transpose(1, 2)[None].contiguous())]
    streams, output, phi, post, res = given
    scale, bias = problem.scale, problem.transposed(problem.bias)

    def run() -> Results:
        merged = ops.post.mhc_post(output, streams, post, res)
        mixes = ops.norm_fn.mhc_pre_norm_fn(merged, phi, None, EPS, fuse_grad_acc=False)
        new_pre, new_post, new_res = ops.pre_split_mixes.mhc_pre_split_mixes(mixes, scale, bias, n, 2.0, 0.0)
        new_res = ops.sinkhorn.sinkhorn_normalize(new_res, repeat=NUM_ITERS, eps=0.0)
        tokens = ops.pre_apply_mix.mhc_pre_apply_mix(merged, new_pre)
        return [merged[0], problem.norm(tokens[0]), new_post[0, ..., 0], new_res[0].transpose(1, 2)]

    return Prepared(run, given, problem.transposed)


def transformer_engine(problem: Problem) -> Prepared:
    """TransformerEngine: streams last, (1, M, C, n), which the network would keep; n = 4 alone."""
    from transformer_engine.pytorch.triton import mhc

    n, dim = problem.streams.shape[1:]
    post, res = problem.maps
    # (k, n*C) -> (k, C*n)
    weight = problem.transposed(problem.weight).unflatten(1, (n, dim)).transpose(1, 2).flatten(1).contiguous()
    x = problem.streams.transpose(1, 2).contiguous()[None]
    given = [leaf(t) for t in (x, problem.output[None], weight, post[None], res.transpose(1, 2)[None].contiguous())]
    streams, output, phi, post, res = given
    scale, bias = problem.scale, problem.transposed(problem.bias)[None]

    def run() -> Results:
        merged = mhc.mhc_fused_expand_combine(output, None, post, streams, res, n)
        tokens, new_post, new_res = mhc.mhc_generate_mix_and_aggregate(merged, phi, scale, bias)
        return [merged[0].transpose(1, 2), problem.norm(tokens[0]), new_post[0], new_res[0].transpose(1, 2)]

    def to_our_order(gradient: Tensor) -> Tensor:
        return problem.transposed(gradient.unflatten(1, (dim, n)).transpose(1, 2).flatten(1))

    return Prepared(run, given, to_our_order)


def hyper_connections(problem: Problem) -> Prepared:
    """The `hyper-connections` package: each stream makes its maps from itself alone, which is another function."""
    from hyper_connections.mHCv2 import ManifoldConstrainedHyperConnections

    n, dim = problem.streams.shape[1:]
    connection = ManifoldConstrainedHyperConnections(n, dim=dim, layer_index=0, sinkhorn_iters=NUM_ITERS)
    connection.to(problem.streams.device)
    streams, output = leaf(problem.streams[None]), leaf(problem.output[None])
    post = leaf(problem.maps[0][None, ..., None, None])
    with torch.no_grad():
        connection.dynamic_alpha_fn.copy_(problem.weight[: n + 1, :dim].t().reshape(connection.dynamic_alpha_fn.shape))

    def run() -> Results:
        merged = connection.depth_connection(output, streams, beta=post)
        tokens, mixed, made = connection.width_connection(merged)
        return [mixed[0], problem.norm(tokens[0]), made["beta"][0]]

    return Prepared(run, [streams, output, connection.dynamic_alpha_fn, post])


PEERS: dict[str, Callable[[Problem], Prepared]] = {
    "liger-kernel": liger,
    "hyper-connections": hyper_connections,
    "tile-kernels": tile_kernels,
    "transformer-engine": transformer_engine,
}
# those whose parameters cannot express our function: checked against themselves in fp32, and timed with this note
OTHER_FUNCTION = {"hyper-connections": "maps of a stream from that stream alone, read and mix before the branch"}
NEEDS_GPU = {"tile-kernels", "transformer-engine"}


def installed_versions() -> dict[str, Any]:
    """Version of each peer, None where it is not installed."""
    found: dict[str, Any] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
