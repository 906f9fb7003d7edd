"""Low-rank adapters (LoRA, arXiv 2106.09685) in a timm model, through peft."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from mhc_vision.checks import check_number, check_whole_number, nearest
from mhc_vision.models.designs.mudd import QkvLinear


@dataclass(frozen=True)
class LoraOptions:
    """Options of the adapters.

    Attributes:
        rank: r of W + (alpha / r) B A: rows of A and columns of B.
        alpha: scale of the update, divided by the rank.
        dropout: of an adapter's input, in training.
        targets: ends of the names of the linear layers that get an adapter, such as `attn.qkv`.

    Raises:
        ValueError: a number out of range, or no targets.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attn.qkv", "attn.proj")

    def __post_init__(self) -> None:
        check_whole_number("lora_rank", self.rank, at_least=1)
        check_number("lora_alpha", self.alpha, above=0)
        check_number("lora_dropout", self.dropout, at_least=0, below=1)
        if not self.targets:
            raise ValueError("lora_targets: got none, expected ends of the names of linear layers")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "LoraOptions":
        """The options in hyper-parameters `lora_rank`, `lora_alpha`, ..."""
        values = {field.name: settings[f"lora_{field.name}"] for field in fields(cls)}
        return cls(**{**values, "targets": tuple(values["targets"])})


def add_adapters(model: nn.Module, options: LoraOptions) -> None:
    """Put adapters into a model, in place. B starts at zero, so the model computes what it did.

    Only the adapters are trainable afterwards. A layer's own `weight` becomes `base_layer.weight`.

    Args:
        model: a timm model.
        options: rank, scale, dropout and targets.

    Raises:
        ImportError: peft is missing.
        ValueError: a target that matches no linear layer (peft says so only if none matches), one that an adapter
            would not reach, or one that is smaller than the rank.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'mhc-vision[finetune]'") from error
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in options.targets:
        if not _ending_with(target, linear):
            kinds = sorted({".".join(name.split(".")[-2:]) for name in linear if name.startswith("blocks.")})
            raise ValueError(
                f"lora_targets: got {target!r}, which matches no linear layer of {type(model).__name__}, expected ends "
                f"of their names: {', '.join(kinds)}{nearest(target, kinds)}"
            )
    _check_called(model, options.targets)
    _check_rank(model, options)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        bias="none",
    )
    inject_adapter_in_model(config, model)


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights they belong to and take them out, in place: timm's model again."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    # what peft notes on a model that has adapters
    del model.peft_config


def _check_called(model: nn.Module, targets: Sequence[str]) -> None:
    """Raise ValueError for a target that an adapter would not reach.

    timm's attention reads some weights without calling the layer (BEiT, EVA), and MUDD gives `attn.qkv` three inputs.
    """
    for name, attention in model.named_modules():
        if isinstance(attention, QkvLinear) and any(_ending_with(target, [name]) for target in targets):
            raise ValueError(
                f"lora_targets: got {name}, which has an input each for queries, keys and values, expected layers with "
                "one; take attn.proj, mlp.fc1 and mlp.fc2"
            )
        reads = getattr(attention, "q_bias", None) is not None and not getattr(attention, "qkv_bias_separate", False)
        if reads and any(_ending_with(target, [f"{name}.qkv"]) for target in targets):
            raise ValueError(
                f"lora_targets: got {name}.qkv, whose weight {type(model).__name__} reads without calling the layer, "
                "expected layers that are called; take attn.proj, mlp.fc1 and mlp.fc2"
            )


def _check_rank(model: nn.Module, options: LoraOptions) -> None:
    """Raise ValueError where B A would have more numbers than it can say: its rank is at most the smaller side."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and any(_ending_with(target, [name]) for target in options.targets):
            smaller = min(module.in_features, module.out_features)
            if options.rank > smaller:
                raise ValueError(
                    f"lora_rank: got {options.rank}, expected at most {smaller}, the smaller side of {name}"
                )


def _ending_with(target: str, names: Sequence[str]) -> list[str]:
    """The names that peft's `target_modules` would choose."""
    return [name for name in names if name == target or name.endswith(f".{target}")]
