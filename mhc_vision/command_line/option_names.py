"""Names of options of `train` and `finetune`, in their words and files, checked before anything heavy is imported."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mhc_vision.checks import nearest
from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.given_settings import Given, value_of

SUBCOMMANDS = ("fit", "validate", "test")
_DATA = ("class_path", "init_args", "help")


def check_option_names(command: str, given: Sequence[Given]) -> None:
    """Raise ValueError for the first option that `command` does not have.

    What is chosen by a class that is not this package's, such as a data module or a callback of one's own, is left to
    the parser, as values are.

    Args:
        command: `train` or `finetune`.
        given: What the words set, in their order.

    Raises:
        ValueError: An option that there is not; the message names its file and the nearest one.
    """
    known = catalog().options[options_of(command, given)]
    data_class: str | None = None
    for one in given:
        for key in _keys(one.settings, known):
            if key not in known and key.partition(".")[0] != "data":
                raise ValueError(unknown_key(key, known, one.source))
        data = one.settings.get("data")
        data_class = data_class_name(data) or data_class
        _check_data(one, data, data_class)


def options_of(command: str, given: Sequence[Given]) -> str:
    """The name under which the catalog has the options of a command: a model with a decoder segments.

    Args:
        command: `train` or `finetune`.
        given: What the words set.
    """
    return "segmentation" if command == "finetune" and value_of(given, "model.decoder") is not None else command


def unknown_key(key: str, known: Iterable[str], source: str | None) -> str:
    """What to say of an option that there is not.

    Args:
        key: With its sections, such as `model.lrr`.
        known: The options that there are.
        source: The file or option that sets it.
    """
    known = list(known)
    if source == f"--{key}":
        return f"{source}: there is no such option{nearest(source, [f'--{name}' for name in known])}"
    last = key.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    hint = nearest(key, known) or (f", expected {', '.join(elsewhere)}" if elsewhere else "")
    place = f"{source}: " if source else ""
    return f"{place}{key}: there is no such option{hint}"


def unknown_option_of(key: str, class_name: str, known: Iterable[str], source: str | None) -> str:
    """What to say of an option that a class does not have.

    Args:
        key: With its sections, such as `data.batchsize`.
        class_name: Of the class that `data` names.
        known: The options that it has.
        source: The file or option that sets it.
    """
    place = f"{source}: " if source and not source.startswith("--") else ""
    name = key.rpartition(".")[2]
    return f"{place}{key}: {class_name} has no such option{nearest(name, known)}"


def data_class_name(data: Any) -> str | None:
    """The class that a section `data` names, without its module; `None` where it names none."""
    path = data.get("class_path") if isinstance(data, Mapping) else data
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _keys(settings: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    """Keys with their sections; what is below an option is its value."""
    for section, content in settings.items():
        if section not in known and isinstance(content, Mapping) and content:
            yield from (f"{section}.{key}" for key in _keys(content, ()))
        elif isinstance(content, Mapping) and any(name.startswith(f"{section}.") for name in known):
            yield from (f"{section}.{key}" for key in content)
        else:
            yield section


def _check_data(one: Given, data: Any, data_class: str | None) -> None:
    classes = catalog().data_options
    if not isinstance(data, Mapping) or (data_class is not None and data_class not in classes):
        return
    arguments = data.get("init_args")
    keys = [*(key for key in data if key not in _DATA), *(arguments if isinstance(arguments, Mapping) else ())]
    known = {name for options in classes.values() for name in options} if data_class is None else classes[data_class]
    for key in keys:
        if key not in known:
            raise ValueError(unknown_option_of(f"data.{key}", data_class or "every data module", known, one.source))
