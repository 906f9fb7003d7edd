"""A model that is made without memory for its weights, which are made one at a time when each is asked for."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

_aten = torch.ops.aten
_EMPTY = (_aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default)
# what they write does not depend on what was there
_OVERWRITE = ("uniform_", "normal_", "zero_", "fill_", "copy_")

_is_deferring = ContextVar("_is_deferring", default=False)


@contextmanager
def deferring(wanted: bool = True) -> Iterator[None]:
    """Modules of `train` and `finetune` that are made within it get no weights before `ModelParallelStrategy` shards.

    Args:
        wanted: Whether they do.
    """
    before = _is_deferring.set(wanted)
    try:
        yield
    finally:
        _is_deferring.reset(before)


def is_deferring() -> bool:
    """Whether `deferring` is entered."""
    return _is_deferring.get()


class _Place(NamedTuple):
    """Where in the memory of a weight a tensor of it lies."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


class _Source(NamedTuple):
    """A tensor that a weight is made of, with the number of changes that it had seen."""

    tensor: Tensor
    version: int


@dataclass(frozen=True)
class _Step:
    """An operation on a weight, to be done later.

    Attributes:
        function: Of `torch.ops`.
        arguments: Positional ones, then those by name; tensors as `_Place` in the weight or as `_Source`.
        random_state: Of the generator, before the numbers that it draws.
    """

    function: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    random_state: Tensor | None

    def run(self, memory: Tensor, generator: torch.Generator | None = None) -> None:
        """Does it to the weight's memory, (number of entries,), with numbers of `random_state` or of a generator."""

        def tensor(value: _Place | _Source) -> Tensor:
            if isinstance(value, _Place):
                return memory.as_strided(*value)
            assert value.tensor._version == value.version, "a tensor that a deferred weight is copied from has changed"
            return value.tensor

        places = (_Place, _Source)
        args, kwargs = tree_map_only(places, tensor, self.arguments, is_leaf=lambda node: isinstance(node, places))
        if self.random_state is not None:
            kwargs["generator"] = generator or torch.Generator().set_state(self.random_state)
        self.function(*args, **kwargs)


class _StoragesAsArrays(TorchFunctionMode):
    """Where a dispatch mode is entered, PyTorch makes no tensor of a storage, which safetensors asks it for."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leaves the mode for that."""
        with _disable_current_modes() if func is torch.asarray else nullcontext():
            return func(*args, **(kwargs or {}))


class DeferredWeights(TorchDispatchMode):
    """While it is entered, tensors that begin empty are on the meta device, and what becomes of them is written down.

    `value` makes such a tensor: it does again, with the same random numbers, what was done to it, so that it has the
    bits that it would have had. These are parameters, as modules make them; all other tensors are made at once.
    Random numbers are drawn as without it, so that all that follows draws the same ones. What is copied into a weight,
    as from a file, is kept until then: files that are mapped into memory cost none.

        with DeferredWeights() as weights:
            model = timm.create_model("vit_7b_patch16_dinov3_mhc")
        weights.value(model.head.weight)
    """

    def __init__(self) -> None:
        super().__init__()
        self._beside = ExitStack()
        # the storages are kept, so that no other gets the address of one
        self._made: dict[int, tuple[torch.UntypedStorage, list[_Step]]] = {}

    def __enter__(self) -> "DeferredWeights":
        """Begins to defer."""
        self._beside.enter_context(_StoragesAsArrays())
        self._beside.enter_context(warnings.catch_warnings())
        # it is none here
        warnings.filterwarnings("ignore", message=".*to a meta parameter in the current model, which is a no-op.*")
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Ends it; what was deferred stays so."""
        super().__exit__(*error)
        self._beside.__exit__(*error)

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether a tensor, or what it is a view of, began empty here."""
        return tensor.is_meta and tensor.untyped_storage()._cdata in self._made

    def value(self, tensor: Tensor) -> Tensor:
        """The tensor, of the same shape, on the CPU.

        Raises:
            KeyError: It has not been made here.
        """
        _, steps = self._made[tensor.untyped_storage()._cdata]
        with torch.no_grad():
            if len(steps) == 1 and (source := _copied(steps[0], tensor)) is not None:
                return source
            memory = _memory(tensor)
            for step in steps:
                step.run(memory)
            return memory.as_strided(*_place(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Defers what is done to the tensors that began empty."""
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
            # as modules ask for that are to be where these weights are
            kwargs["device"] = torch.device("cpu")
        if func in _EMPTY and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            tensor = func(*args, **{**kwargs, "device": torch.device("meta")})
            # `torch.load` begins with an empty tensor of no entries, and gives it memory of a file
            if tensor.numel() > 0:
                self._made[tensor.untyped_storage()._cdata] = (tensor.untyped_storage(), [])
                return tensor
        if not any(isinstance(leaf, Tensor) and leaf in self for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        changed, viewed = _aliased(func, args, kwargs)
        if any(leaf in self for leaf in tree_leaves(changed)):
            if len(changed) > 1 or not isinstance(changed[0], Tensor):
                raise NotImplementedError(f"{func} changes several weights at once, which cannot be deferred")
            self._defer(func, changed[0], (args, kwargs))
            return changed[0]
        if any(leaf in self for leaf in tree_leaves(viewed)):
            return func(*args, **kwargs)
        read = tree_map_only(Tensor, lambda leaf: self.value(leaf) if leaf in self else leaf, (args, kwargs))
        return func(*read[0], **read[1])

    def _defer(self, func: Any, weight: Tensor, given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        """Writes down an operation that changes a weight; one that draws random numbers draws them, too."""
        storage, steps = self._made[weight.untyped_storage()._cdata]

        def written(tensor: Tensor) -> _Place | _Source:
            if tensor in self and tensor.untyped_storage()._cdata == storage._cdata:
                return _place(tensor)
            tensor = self.value(tensor) if tensor in self else tensor
            return _Source(tensor, tensor._version)

        arguments = tree_map_only(Tensor, written, given)
        generator = arguments[1].pop("generator", None) or torch.default_generator
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        step = _Step(func, arguments, generator.get_state() if is_random else None)
        if is_random:
            step.run(_memory(weight), generator)
        overwrites = func._schema.name.rpartition("::")[2] in _OVERWRITE and weight.nbytes == storage.nbytes()
        # not where a weight is copied onto itself
        if overwrites and sum(isinstance(leaf, _Place) for leaf in tree_leaves(arguments, _is_place)) == 1:
            steps.clear()
        steps.append(step)


def _aliased(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What an operation changes, and what it gives views of."""
    changed: list[Any] = []
    viewed: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and value is not None:
            (changed if argument.alias_info.is_write else viewed).append(value)
    return changed, viewed


def _is_place(node: Any) -> bool:
    return isinstance(node, _Place)


def _place(tensor: Tensor) -> _Place:
    return _Place(tensor.size(), tensor.stride(), tensor.storage_offset())


def _memory(tensor: Tensor) -> Tensor:
    """Memory of its own for the storage of a tensor: (number of entries,)."""
    return torch.empty(tensor.untyped_storage().nbytes() // tensor.element_size(), dtype=tensor.dtype)


def _copied(step: _Step, tensor: Tensor) -> Tensor | None:
    """The tensor that a whole weight is a mere copy of, or None."""
    source = step.arguments[0][1] if step.function is _aten.copy_.default else None
    if not isinstance(source, _Source) or source.tensor.device.type != "cpu":
        return None
    whole = (source.tensor.shape, source.tensor.dtype) == (tensor.shape, tensor.dtype)
    return source.tensor if whole and source.tensor._version == source.version else None
