"""HyperConnected: what turns a timm transformer into one whose blocks carry streams, whatever its family."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mhc_vision.checks import check_choice, check_whole_number, nearest
from mhc_vision.layers import (
    check_block_class,
    check_connection,
    connect_blocks,
    connection_no_weight_decay,
    connection_options,
    disconnect_blocks,
    set_stream_dtype,
)
from mhc_vision.layers.blocks.fused_stack import why_not_fusable
from mhc_vision.layers.blocks.stack import StreamStack, adopt, token_dtype
from mhc_vision.layers.blocks.stream_block import read_out
from mhc_vision.models.model_arguments import check_model_arguments
from mhc_vision.models.state_dicts import check_connections


class HyperConnected(nn.Module):
    """Base of the hyper-connected models, combined with one of timm's model classes, whose modules and names it keeps.

    At its initial values a connection is a plain residual connection: with the weights of the plain model the model is
    that model, whatever the connection and the number of streams. (With `stream_reduce='sum'`, features before the
    final norm are n times larger.)

    Args:
        connection: `shc` (static), `dhc` (dynamic) or `mhc` (manifold-constrained).
        num_streams: n, from 1 to 8.
        stream_reduce: read-out of the streams: `mean`, `sum` or `gated`.
        stream_expand: how tokens become streams: `copy`, or for training from scratch `scaled`, by learned scales that
            tell streams apart from the start (see `ScaledExpansion`); that model is no plain one at its initial values.
        scale_output_init: divide the initial weights of the attention and MLP output projections by √n. The HC paper
            (arXiv 2409.19606) scales them "by a factor of √n"; dividing is our reading, as it keeps the standard
            deviation of the summed output.
        stream_stride: see `set_stream_stride`.
        stream_dtype: see `set_stream_dtype`.
        **kwargs: options of the connection, as `StaticHyperConnection` (`shc`), `DynamicHyperConnection` (`dhc`) and
            `ManifoldHyperConnection` (`mhc`) describe them: `connection_options()` lists them. None stands for the
            default. All others are of timm's model class.

    Raises:
        ValueError: unknown connection, constraint or read-out; a value out of range; an option of another connection;
            blocks that connections cannot replace.
    """

    if TYPE_CHECKING:  # of timm's classes; TorchScript reads annotations, and these would hide timm's own
        blocks: Any
        embed_dim: int
        norm: nn.Module
        patch_embed: Any

    def __init__(
        self,
        *,
        connection: str = "mhc",
        num_streams: int = 4,
        stream_reduce: str = "mean",
        stream_expand: str = "copy",
        scale_output_init: bool = False,
        stream_stride: int = 1,
        stream_dtype: str = "model",
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in connection_options() if name in kwargs}
        check_connection(connection, num_streams, stream_reduce, stream_expand, stream_dtype, **options)
        if not isinstance(scale_output_init, bool):
            raise ValueError(f"scale_output_init: got {scale_output_init!r}, expected true or false")
        if scale_output_init and kwargs.get("weight_init") == "skip":
            raise ValueError(
                "scale_output_init: got true with weight_init='skip', expected false; there is nothing to scale"
            )
        _check_names(super().__init__, kwargs)
        block_fn = kwargs.get("block_fn", Block)
        check_block_class(getattr(block_fn, "func", block_fn))
        check_model_arguments(kwargs)
        # timm initialises the weights at the end of its constructor, where init_weights below needs these two
        self.num_streams = num_streams
        self.scale_output_init = scale_output_init
        super().__init__(**kwargs)
        self.connect(connection, num_streams, stream_reduce, stream_expand, options)
        self.set_stream_stride(stream_stride)
        self.set_stream_dtype(stream_dtype)

    def connect(
        self, connection: str, num_streams: int, stream_reduce: str, stream_expand: str, options: dict[str, Any]
    ) -> None:
        """Put connections in place of the additions of the plain blocks that timm's constructor has made."""
        check_factor_is_normed(self, stream_reduce)
        connect_blocks(self.blocks, self.embed_dim, connection, num_streams, stream_reduce, options, stream_expand)
        self.connection = connection
        self.num_streams = num_streams
        self.stream_reduce = stream_reduce
        self.stream_expand = stream_expand

    def set_stream_stride(self, stream_stride: int) -> None:
        """Keep the streams of every k-th boundary between branches for the backward pass; it makes the others again.

        The results are the same bits. This has an effect where the Triton kernels run whole stacks, as
        `mhc_vision.describe` says.

        Args:
            stream_stride: k, from 1; more keeps less memory and computes more.

        Raises:
            ValueError: not a whole number from 1, or more than 1 for blocks that never run as a whole stack.
        """
        check_whole_number("stream_stride", stream_stride, at_least=1)
        if stream_stride > 1 and (reason := why_not_fusable(self.blocks)):
            raise ValueError(
                f"stream_stride: got {stream_stride} for blocks that run one by one, expected 1: {reason} "
                "(mhc_vision.describe says what runs fused)"
            )
        self.blocks.stream_stride = stream_stride

    def set_stream_dtype(self, stream_dtype: str) -> None:
        """Say what streams are rounded to: once at the entry, and once after each merge.

        Maps, logits and sums are fp32 at least, whatever the streams are. Branches and what follows the blocks get what
        is read from the streams in the dtype of the blocks' weights. Nothing of this is in a checkpoint: weights fit
        all values. TorchScript computes as with `model`.

        Args:
            stream_dtype: `model`, the dtype of the tokens that enter the blocks, which is that of the model, and fp32
                under autocast; `auto`, bf16 under bf16 autocast, else as `model`; `float32` or `bfloat16`, whatever the
                rest is.

        Raises:
            ValueError: another value.
        """
        set_stream_dtype(self.blocks, stream_dtype)
        self.stream_dtype = stream_dtype

    def disconnect(self) -> None:
        """Undo `connect`; the caller then gives the model timm's class."""
        vars(self.blocks).pop("stream_stride", None)
        vars(self).pop("stream_dtype", None)
        disconnect_blocks(self.blocks)
        del self.connection, self.num_streams, self.stream_reduce, self.stream_expand, self.scale_output_init

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """timm's initialisation, and the smaller output projections if asked for."""
        super().init_weights(*args, **kwargs)  # type: ignore[misc]
        if self.scale_output_init:
            with torch.no_grad():
                for name, parameter in self.blocks.named_parameters():
                    if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                        parameter.div_(self.num_streams**0.5)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Exact names of parameters without weight decay."""
        return super().no_weight_decay() | connection_no_weight_decay(self)  # type: ignore[misc]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Features after chosen blocks, each read out of its streams; arguments and results are timm's."""
        check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        reduction, dtype = self.blocks[-1].reduction, token_dtype(self.blocks)
        grid = self.patch_embed.dynamic_feat_size(tuple(x.shape[-2:]))

        def tokens(tap: Tensor) -> Tensor:
            tap = tap if tap.ndim == 3 else read_out(reduction, tap, dtype)
            return self.norm(tap) if norm else tap

        def image(tap: Tensor) -> Tensor:
            tap = tokens(tap)
            return tap.unflatten(1, grid).permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else tap

        def image_and_prefix(tap: Any) -> Any:
            return (image(tap[0]), tokens(tap[1])) if isinstance(tap, tuple) else image(tap)

        result = super().forward_intermediates(  # type: ignore[misc]
            x, indices, return_prefix_tokens, False, stop_early, "NLC", intermediates_only, *args, **kwargs
        )
        if isinstance(result, dict):
            taps = {"image_intermediates": image, "image_intermediates_prefix": tokens}
            return {key: [taps[key](tap) for tap in value] if key in taps else value for key, value in result.items()}
        if intermediates_only:
            return [image_and_prefix(tap) for tap in result]
        return result[0], [image_and_prefix(tap) for tap in result[1]]

    def __setattr__(self, name: str, value: Any) -> None:
        """As PyTorch's; blocks that take the place of all, as in timm's pruning, expand and read out the streams."""
        if name == "blocks" and isinstance(getattr(self, "blocks", None), StreamStack):
            value = adopt(value, self.blocks)
            if isinstance(value, StreamStack):
                value.own_ends()
        super().__setattr__(name, value)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's, after `check_connections`, whose error says how the connections differ."""
        check_connections(self, state_dict, strict=strict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class UnknownArgument(TypeError, ValueError):
    """A model has no argument of this name: a TypeError, as timm's, and a ValueError, as all errors of this library."""


def _check_names(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise `UnknownArgument` if a function has no argument of a name; the message has those like it."""
    known = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    if unknown := arguments.keys() - known.keys():
        name = min(unknown)
        ours = ("num_streams", "stream_reduce", "stream_expand", "stream_stride", "stream_dtype")
        hint = nearest(name, [*connection_options(), *ours, *known])
        raise UnknownArgument(f"{name}: got {arguments[name]!r}, but the model has no such argument{hint}")


def check_factor_is_normed(model: Any, stream_reduce: str) -> None:
    """Raise ValueError if the streams are summed and no norm follows that takes the factor n out."""
    pooled_by_attention = getattr(model, "attn_pool", None) is not None
    normed_later = not isinstance(model.fc_norm, nn.Identity) and not pooled_by_attention
    if stream_reduce == "sum" and isinstance(model.norm, nn.Identity) and not normed_later:
        raise ValueError("stream_reduce: got 'sum', expected 'mean' or 'gated'; no norm follows the sum")
