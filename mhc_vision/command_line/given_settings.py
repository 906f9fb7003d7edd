"""What each option of a command line sets, in order and with its files read, so that errors can name the source."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mhc_vision.command_line.recipes import config_path, is_inline
from mhc_vision.yaml_files import check_yaml, parse_yaml, read_yaml_text

# each of them takes a file or a text of settings
_CONFIG = ("--config", "-c")
_SECTIONS = ("data", "model", "trainer")
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Given:
    """What one option of a command line sets.

    Attributes:
        source: The file, or the option.
        settings: As in a configuration file; of an option `--a.b c`, {a: {b: c}}.
    """

    source: str
    settings: dict[str, Any]


def given_settings(words: Sequence[str], load: Callable[[str], Any]) -> list[Given]:
    """What each option sets, in the order in which they count; files named in files are read, too.

    Args:
        words: The command line.
        load: What the parser makes values of a YAML text with.

    Raises:
        ValueError: A configuration file is not there, refers to itself, or is no mapping, or its YAML is refused.
    """
    return [
        _of_config(value, load) if option in _CONFIG else _of_option(option.removeprefix("--"), value, load)
        for option, value in _options(words)
    ]


def source_of(given: Sequence[Given], key: str) -> str | None:
    """The last file or option that sets a key, such as `data.batch_size`, with or without `init_args`.

    Of a key within a list, what sets the list.
    """
    for one in reversed(given):
        if _setting(one, key) is not None:
            return one.source
    return source_of(given, key.rpartition(".")[0]) if key.count(".") > 1 else None


def value_of(given: Sequence[Given], key: str) -> Any:
    """The last value of a key, such as `data.batch_size`, with or without `init_args`; of an option, its text."""
    return next((value for one in reversed(given) if (value := _setting(one, key)) is not None), None)


def merged_model_args(given: Sequence[Given], load: Callable[[str], Any]) -> dict[str, Any]:
    """What files and options say of `model.model_args` together; of a key in several, the last one counts.

    `null`, or an option that sets all of it, takes the place of what was given before.

    Args:
        given: What each option sets.
        load: As for `given_settings`.
    """
    merged: dict[str, Any] = {}
    for one in given:
        model = one.settings.get("model")
        if not isinstance(model, dict) or "model_args" not in model:
            continue
        arguments = model["model_args"]
        if one.source == "--model.model_args" or not isinstance(arguments, dict):
            merged = {}
        elif one.source.startswith("--model.model_args."):
            merged.update({key: _loaded(value, load) for key, value in arguments.items()})
        else:
            merged.update(arguments)
    return merged


def _loaded(value: Any, load: Callable[[str], Any]) -> Any:
    """The value of an option, which is text where it is no YAML."""
    if not isinstance(value, str):
        return value
    try:
        return load(value)
    except (yaml.YAMLError, ValueError):
        return value


def batch_size_is_last(given: Sequence[Given]) -> bool:
    """Whether `data.batch_size` is set after the last `data.total_batch_size`; in one file the total counts."""
    is_last = False
    for one in given:
        data = one.settings.get("data")
        if not isinstance(data, dict):
            continue
        arguments = data.get("init_args")
        options = {**data, **(arguments if isinstance(arguments, dict) else {})}
        if "total_batch_size" in options:
            is_last = False
        elif "batch_size" in options:
            is_last = True
    return is_last


def _setting(one: Given, key: str) -> Any:
    first, *names = key.split(".")
    for path in ([first, *names], [first, "init_args", *names]):
        found: Any = one.settings
        for name in path:
            found = found[name] if isinstance(found, dict) and name in found else None
            if found is None:
                break
        if found is not None:
            return found
    return None


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; those without one are left to the parser."""
    rest = iter([*words, "--"])
    word = next(rest)
    for following in rest:
        option, equals, value = word.partition("=")
        if option.startswith("--") or option in _CONFIG:
            if equals:
                yield option.removesuffix("+"), value
            elif not following.startswith("--") and following not in _CONFIG:
                yield option.removesuffix("+"), following
        word = following


def _of_config(value: str, load: Callable[[str], Any]) -> Given:
    if is_inline(value):
        content, source = parse_yaml(value, "--config", load), "--config"
    else:
        source = config_path(value)
        content = _expand(_read(source, load), source, load, (os.path.realpath(source),))
    if not isinstance(content, dict):
        got = "nothing" if content in (None, "") else repr(content)[:60]
        raise ValueError(f"{source}: got {got}, expected options, such as `model:` and below it `  lr: 0.001`")
    for section in _SECTIONS:
        held = content.get(section)
        if held is not None and not isinstance(held, dict | str):
            raise ValueError(f"{source}: {section}: got {repr(held)[:60]}, expected options below it")
    return Given(source, content)


def _of_option(key: str, value: str, load: Callable[[str], Any]) -> Given:
    source = f"--{key}"
    content: Any = value
    if os.path.isfile(value) and (key in _SECTIONS or value.endswith(_SUFFIXES)):
        content, source = _expand(_read(value, load), value, load, (os.path.realpath(value),)), value
    elif key in _SECTIONS and value.endswith(_SUFFIXES):
        raise ValueError(f"{key}: got {value}, which is no file, expected a YAML file")
    elif value.lstrip()[:1] in ("{", "[") or "\n" in value:
        try:
            content = load(value)
        except (yaml.YAMLError, ValueError):
            # no YAML is text: whether text will do here is for the parser to say
            content = value
        else:
            check_yaml(value, source)
    settings: Any = content
    for name in reversed(key.split(".")):
        settings = {name: settings}
    return Given(source, settings)


def _read(path: str, load: Callable[[str], Any]) -> Any:
    return parse_yaml(read_yaml_text(path), path, load)


def _expand(value: Any, file: str, load: Callable[[str], Any], above: tuple[str, ...]) -> Any:
    """A value from a file, with other files in place of their names, which are relative to its folder."""
    if isinstance(value, dict):
        return {key: _expand(entry, file, load, above) for key, entry in value.items()}
    if isinstance(value, list):
        return [_expand(entry, file, load, above) for entry in value]
    if not isinstance(value, str) or not value.endswith(_SUFFIXES):
        return value
    path = os.path.join(os.path.dirname(file), value)
    if not os.path.isfile(path):
        return value
    real = os.path.realpath(path)
    if real in above:
        raise ValueError(f"{file}: got {value}, which leads back to itself, expected files that do not")
    return _expand(_read(path, load), path, load, (*above, real))
