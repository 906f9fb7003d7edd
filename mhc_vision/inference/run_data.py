"""The data of a run, from the configuration that lies in its directory.

That file may be anybody's. It says which of the library's own data modules, with which plain values; it names no code,
runs no command, fetches nothing and writes nothing.
"""

from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningDataModule

from mhc_vision import data as data_modules
from mhc_vision.data.webdataset_locations import is_local
from mhc_vision.data.webdataset_shards import Shards
from mhc_vision.run_directory import CONFIG
from mhc_vision.stored.value_kinds import PLAIN, shown
from mhc_vision.yaml_files import read_yaml

_PREFIX = f"{data_modules.__name__}."
# without a dataset of their own
_BASES = ("ImageDataModule", "InMemoryDataModule")
_BY_NAME: dict[str, type[LightningDataModule]] = {
    name: getattr(data_modules, name) for name in data_modules.__all__ if name not in _BASES
}
# what a person may ask for at the command line, and a file beside data may not
_NOT_FROM_A_FILE = {"download": False, "allow_commands": False}


def run_config(checkpoint: Path) -> Path | None:
    """`config.yaml` of the run that a checkpoint belongs to; None where there is none."""
    for directory in (checkpoint.parent.parent, checkpoint.parent):
        if (directory / CONFIG).is_file():
            return directory / CONFIG
    return None


def read_run_config(config: Path) -> dict[str, Any]:
    """What a `config.yaml` holds: plain values by name.

    Raises:
        ValueError: It cannot be read, is no YAML, or holds no mapping.
    """
    content = read_yaml(config) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{config}: got {shown(content)}, expected the settings of a run")
    return content


def load_run_data(config: Path) -> LightningDataModule:
    """Build the data module that a run was configured with, if it is one of the library's and reads local files.

    Args:
        config: `config.yaml` of the run.

    Raises:
        ValueError: The file has no data section, names another class or other arguments than the library's, or the
            data module refuses it, as where its folders have moved.
    """
    section = read_run_config(config).get("data")
    if not section:
        raise ValueError(f"data: got {config} without a section `data`, expected one; give --data")
    module_class, arguments = _checked(config, section)
    parser = ArgumentParser(exit_on_error=False)
    # no class among the arguments' types, and no file in place of them: what is parsed is what stands there
    parser.add_class_arguments(module_class, "data", sub_configs=False)
    known = {action.dest.removeprefix("data.") for action in parser._actions if action.dest.startswith("data.")}
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(
            f"data: {config}: got {', '.join(unknown)}, expected arguments of {module_class.__name__}; give --data"
        )
    arguments |= {name: value for name, value in _NOT_FROM_A_FILE.items() if name in known}
    try:
        parsed = parser.parse_object({"data": arguments})
        data = cast(LightningDataModule, parser.instantiate_classes(parsed).data)
    except (ValueError, TypeError, ArgumentError, ImportError) as error:
        reason: BaseException = error
        while isinstance(reason.__cause__, ValueError):
            reason = reason.__cause__
        raise ValueError(f"data: got {config}, expected one that gives images: {reason}; or give --data") from error
    # braces in the name of a split can hide an address
    for samples in ("train_set", "eval_set", "test_set"):
        shards = vars(data).get(samples)
        for location in shards.urls if isinstance(shards, Shards) else ():
            _check_local(config, "split", location)
    return data


def _checked(config: Path, section: Any) -> tuple[type[LightningDataModule], dict[str, Any]]:
    """The class and the arguments that a data section names, both known and plain."""
    section = {"class_path": section} if isinstance(section, str) else section
    if not isinstance(section, dict) or not section.keys() <= {"class_path", "init_args"}:
        raise ValueError(f"data: {config}: got {shown(section)}, expected class_path and init_args; give --data")
    path, arguments = section.get("class_path"), section.get("init_args") or {}
    name = path.rpartition(".")[2] if isinstance(path, str) else ""
    # modules have moved within the package; the name is looked up in a table, and nothing is imported by it
    if not isinstance(path, str) or name not in _BY_NAME or (path != name and not path.startswith(_PREFIX)):
        raise ValueError(
            f"data: {config}: class_path: got {shown(path)}, expected one of the library's own, {', '.join(_BY_NAME)}: "
            "a file does not choose code to run; give --data"
        )
    if not isinstance(arguments, dict):
        raise ValueError(f"data: {config}: init_args: got {shown(arguments)}, expected a mapping; give --data")
    for key, value in arguments.items():
        if not isinstance(key, str) or not PLAIN.fits(value):
            raise ValueError(f"data: {config}: {key}: got {shown(value)}, expected {PLAIN.expected}; give --data")
    dataset = str(arguments.get("dataset", ""))
    if dataset.lower().startswith("wds/"):
        _check_local(config, "root", str(arguments.get("root") or ""))
    if dataset.lower().startswith("hfds/") and not Path(dataset[len("hfds/") :]).exists():
        raise ValueError(_not_here(config, "dataset", dataset))
    return _BY_NAME[name], dict(arguments)


def _check_local(config: Path, key: str, location: str) -> None:
    if not is_local(location):
        raise ValueError(_not_here(config, key, location))


def _not_here(config: Path, key: str, value: str) -> str:
    return (
        f"data: {config}: {key}: got {shown(value)}, expected files of this machine: nothing is run or fetched because "
        "a file says so; give --data"
    )
