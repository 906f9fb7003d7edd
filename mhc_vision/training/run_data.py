"""The data of a run, from the configuration that lies in its directory."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser


def run_config(checkpoint: Path) -> Path | None:
    """`config.yaml` of the run that a checkpoint belongs to; None where there is none."""
    for directory in (checkpoint.parent.parent, checkpoint.parent):
        if (directory / "config.yaml").is_file():
            return directory / "config.yaml"
    return None


def load_run_data(config: Path) -> LightningDataModule:
    """Build the data module that a run was configured with.

    Args:
        config: `config.yaml` of the run.

    Raises:
        ValueError: The file has no data section, or the data module refuses it, as where its folders have moved.
    """
    content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    if not content.get("data"):
        raise ValueError(f"data: {config} has no section data; give --data")
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    try:
        parsed: Namespace = parser.parse_object({"data": content["data"]})
        return parser.instantiate_classes(parsed).data
    except (ValueError, ArgumentError, ImportError) as error:
        reason: BaseException = error
        while isinstance(reason.__cause__, ValueError):
            reason = reason.__cause__
        raise ValueError(f"data: {config} gives no images: {reason}") from error
