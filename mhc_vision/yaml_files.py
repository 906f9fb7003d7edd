"""YAML that users write: safe, each key once, of a size that can be looked at, and errors with file, line and column.

By itself PyYAML keeps the last of two equal keys and says nothing, and takes aliases that stand for billions of values.
"""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 100
MAX_VALUES = 200_000
"""Of a text, with each alias counted as what it stands for."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file; `None` where it has none.

    Raises:
        ValueError: It cannot be read, or `parse_yaml` refuses it.
    """
    return parse_yaml(read_yaml_text(path), str(path))


def read_yaml_text(path: Path | str) -> str:
    """The text of a YAML file.

    Raises:
        ValueError: No such file, one that cannot be read, one that is no UTF-8, or one of more than 4 MiB.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; expected a YAML file") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: got more than {MAX_BYTES:,} bytes, expected a YAML file that people write")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: got no UTF-8 at byte {error.start}, expected a YAML file") from error


def safe_load(text: str) -> Any:
    """PyYAML's `safe_load`, in C where PyYAML has it."""
    return yaml.load(text, Loader=_Loader)


def parse_yaml(text: str, source: str, load: Callable[[str], Any] = safe_load) -> Any:
    """The content of a YAML text.

    Args:
        text: One document.
        source: What errors call it.
        load: What makes values of a text that has passed `check_yaml`.

    Raises:
        ValueError: As `check_yaml`, or a value that is not of the type that its tag or its form says.
    """
    check_yaml(text, source)
    try:
        return load(text)
    except yaml.YAMLError as error:
        _refuse(source, error)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        # PyYAML's own for `2024-13-45`, `!!int x` or `!!bool x`, without a place
        raise ValueError(f"{source}: got a value that its form or tag does not fit: {error}") from error


def check_yaml(text: str, source: str) -> None:
    """Raise ValueError unless a text is YAML that may be loaded.

    Args:
        text: One document.
        source: What errors call it.

    Raises:
        ValueError: It is no YAML, a key stands twice in one mapping, or it is nested or grows, by its aliases, beyond
            all reason. The message has the line and the column.
    """
    try:
        _check_depth(text, source)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is not None:
                _NodeCheck(loader, source).check(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        _refuse(source, error)
    except UnicodeEncodeError as error:
        # bytes of the command line that are no text
        raise ValueError(f"{source}: no YAML: no text at character {error.start + 1}") from error


def _check_depth(text: str, source: str) -> None:
    """The rest recurses into what is nested."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(
                    f"{_place(source, event.start_mark)}: nested {depth} deep, expected at most {MAX_DEPTH}"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _NodeCheck:
    """Looks at each node once, however many aliases lead to it."""

    def __init__(self, loader: Any, source: str) -> None:
        self.loader = loader
        self.source = source
        self._sizes: dict[int, int | None] = {}

    def check(self, node: Any) -> int:
        """Values in a node, with aliases followed."""
        if id(node) in self._sizes:
            size = self._sizes[id(node)]
            if size is None:
                raise ValueError(f"{_place(self.source, node.start_mark)}: an alias in it stands for itself")
            return size
        self._sizes[id(node)] = None
        size = 1
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            size += sum(self.check(key) + self.check(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(self.check(value) for value in node.value)
        if size > MAX_VALUES:
            raise ValueError(
                f"{_place(self.source, node.start_mark)}: its aliases stand for {size:,} values or more, expected at "
                f"most {MAX_VALUES:,}"
            )
        self._sizes[id(node)] = size
        return size

    def _check_keys(self, node: Any) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            # merge keys (<<) bring what may be overridden
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
                key = self._key(key_node)
                if key in seen:
                    raise ValueError(
                        f"{_place(self.source, key_node.start_mark)}: got the key {key_node.value!r} a second time, "
                        "expected it once"
                    )
                seen.add(key)

    def _key(self, node: Any) -> Hashable:
        try:
            key: Hashable = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError):
            # for who loads it to refuse
            return node.tag, node.value
        return key


def _refuse(source: str, error: yaml.YAMLError) -> NoReturn:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    place = _place(source, mark) if mark is not None else source
    raise ValueError(f"{place}: no YAML: {problem}") from error


def _place(source: str, mark: Any) -> str:
    return f"{source}: line {mark.line + 1}, column {mark.column + 1}"
