"""Models, folders and files that a command line names, looked up before anything heavy is imported."""

from collections.abc import Iterable
from pathlib import Path

from mhc_vision.checks import first_few, nearest
from mhc_vision.command_line.catalog import catalog

_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def check_model(name: str) -> None:
    """Raise ValueError for a model that cannot be there; which plain names there are, only timm knows.

    Args:
        name: Of a file or a directory, or what `timm.create_model` takes.
    """
    if ":" in name or Path(name).exists():
        return
    if name.endswith(_FILES) or len(Path(name).parts) > 1:
        raise ValueError(f"model: got {name!r}, which is not there, expected a checkpoint, a directory or a timm model")
    registered = name.partition(".")[0]
    architecture, _, last = registered.rpartition("_")
    if last in catalog().connections and architecture not in catalog().models:
        known = [f"{model}_{last}" for model in catalog().models]
        raise ValueError(
            f"model: got {name!r}, expected a checkpoint, a directory or a timm model{nearest(registered, known)}"
        )


def check_there(argument: str, paths: Iterable[Path], expected: str) -> None:
    """Raise ValueError for the paths that are not there.

    Args:
        argument: What the error calls them.
        paths: Of files or folders.
        expected: What should be there instead.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"{argument}: got {first_few(missing)}, which is not there, expected {expected}")
