"""Settings of a part of a matrix: configuration files and options on top of them, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_vision.checks import check_whole_number, nearest
from mhc_vision.command_line.recipes import find_recipe
from mhc_vision.yaml_files import read_yaml

# what the comparison itself gives to each run
_TAKEN = {
    "seed_everything": "use `seeds`",
    "data.seed": "use `seeds`",
    "data.init_args.seed": "use `seeds`",
    "config": "use `config`",
    "ckpt_path": "runs go on from their own checkpoints",
    "trainer.default_root_dir": "runs are below the directory given by --out",
    "trainer.logger": "a report is read from the log of each run",
    "trainer.enable_progress_bar": "runs write into files",
    "trainer.enable_model_summary": "runs write into files",
}


@dataclass(frozen=True)
class Settings:
    """Configuration files and options, `--key value`, that are put on top of them."""

    configs: tuple[str, ...]
    options: Mapping[str, Any]

    def then(self, other: "Settings") -> "Settings":
        """These, and others on top of them."""
        # what is given again moves to the end: of options that exclude each other, a run takes the later one
        kept = {key: value for key, value in self.options.items() if key not in other.options}
        return Settings(self.configs + other.configs, {**kept, **other.options})

    def check(self, where: str) -> None:
        """Raise ValueError unless files are there and options are left to the user; `where` is named."""
        if not self.configs:
            raise ValueError(f"{where}: got no configuration file, expected at least one in its recipe")
        for config in self.configs:
            if not Path(config).is_file():
                raise ValueError(f"{where}: got {config}, expected a file below {Path.cwd()}")
            read_config(config)
        for key, value in self.options.items():
            if not isinstance(key, str) or key.startswith("-"):
                raise ValueError(f"{where}: set: got the key {key!r}, expected an option, such as model.lr")
            if key in _TAKEN:
                raise ValueError(f"{where}: set: got {key}, expected it left out; {_TAKEN[key]}")
            try:
                json.dumps(value)
            except TypeError as error:
                raise ValueError(f"{where}: set: {key}: got {value!r}, expected text in quotes, or a number") from error

    def effective(self) -> dict[str, Any]:
        """What the files and the options on top of them come to, by dotted key, `init_args` left out."""
        options: dict[str, Any] = {}
        for content in [read_config(config) for config in self.configs] + [dict(self.options)]:
            for key, value in _flat(content).items():
                # a value takes the place of what was below it
                options = {name: other for name, other in options.items() if not name.startswith(f"{key}.")}
                options[key] = value
        return options

    def connection(self) -> Any:
        """`model.connection` as these settings leave it, `None` where they do not speak of it."""
        connection = None
        for config in self.configs:
            if Path(config).is_file():
                connection = (read_config(config).get("model") or {}).get("connection", connection)
        return self.options.get("model.connection", connection)


def check_different(pairs: Mapping[tuple[str, str], Settings]) -> None:
    """Raise ValueError if two arms are the same run on a task, or two tasks are the same for all arms.

    Args:
        pairs: Checked settings by task and arm.
    """
    arms: dict[tuple[str, str], str] = {}
    tasks: dict[str, dict[str, str]] = {}
    for (task, arm), settings in pairs.items():
        content = json.dumps(settings.effective(), sort_keys=True, default=str)
        if (other := arms.setdefault((task, content), arm)) != arm:
            raise ValueError(f"arms: got {other!r} and {arm!r} equal on {task}, expected arms that differ")
        tasks.setdefault(task, {})[arm] = content
    names: dict[str, str] = {}
    for task, contents in tasks.items():
        if (other := names.setdefault(json.dumps(contents, sort_keys=True), task)) != task:
            raise ValueError(f"tasks: got {other!r} and {task!r} with equal settings, expected tasks that differ")


def read_config(path: str) -> dict[Any, Any]:
    """The content of a configuration file.

    Raises:
        ValueError: It is no YAML, or no mapping.
    """
    content = read_yaml(path)
    return check_mapping(path, {} if content is None else content)


def parse_settings(what: str, content: Any) -> dict[str, Settings]:
    """Settings by name: each is a list of configuration files, or a mapping with `config` and `set`.

    Args:
        what: The key of the matrix, for messages.
        content: Its value.

    Raises:
        ValueError: Something else is there.
    """
    entries = check_mapping(what, content)
    if not entries:
        raise ValueError(f"{what}: got none, expected at least one")
    return {name: _parse(f"{what}.{name}", entry) for name, entry in entries.items()}


def check_mapping(
    what: str, content: Any, known: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[Any, Any]:
    """The mapping `content`, after a look at its keys.

    Raises:
        ValueError: It is none, has a key that is not known, or lacks one that is required.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{what}: got {content!r}, expected a mapping of keys to values")
    if known is not None and (unknown := [key for key in content if key not in known]):
        hint = nearest(str(unknown[0]), known)
        raise ValueError(f"{what}: got the key {unknown[0]!r}, expected one of {', '.join(known)}{hint}")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{what}: got no {missing[0]}, expected {', '.join(required)}")
    return content


def whole_number(what: str, value: Any, lowest: int) -> int:
    """`value`, if it is a whole number from `lowest`.

    Raises:
        ValueError: It is not.
    """
    check_whole_number(what, value, at_least=lowest)
    return int(value)


def _flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in content.items():
        key = prefix if name == "init_args" and prefix else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            options |= _flat(value, key)
        else:
            options[key.replace(".init_args.", ".")] = value
    return options


def _parse(what: str, entry: Any) -> Settings:
    if isinstance(entry, list):
        entry = {"config": entry}
    entry = check_mapping(what, entry, ("config", "set"))
    configs = entry.get("config", [])
    if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
        raise ValueError(f"{what}: config: got {configs!r}, expected a list of YAML files")
    # a file of one's own first, then a recipe of that name; what is neither, `check` refuses
    paths = [config if Path(config).is_file() else str(find_recipe(config) or config) for config in configs]
    return Settings(tuple(paths), check_mapping(f"{what}: set", entry.get("set", {})))
