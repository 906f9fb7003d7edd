"""Which checkpoint a run goes on from, and whether it belongs to this run."""

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from mhc_vision.checks import first_few, same_setting
from mhc_vision.data.class_names import chosen_by_number, distinct_names
from mhc_vision.run_directory import NEWEST
from mhc_vision.stored.checkpoint_files import damage, load, read_checkpoint
from mhc_vision.stored.checkpoint_schema import MODEL_SETTINGS, check_restorable
from mhc_vision.stored.weights import check_fits
from mhc_vision.training.run_guard import RunDirectory

# these may change when a run goes on, as they do not change what is computed
MODEL_FREE_TO_CHANGE = ("compile", "pretrained", "metric")


def resume_path(ckpt_path: str | Path | None, run_dir: Path) -> Path | None:
    """The checkpoint that `--ckpt_path` means for a run in this directory.

    `last` is the newest whole one, those that SLURM's time limit made included; None where there is none yet.

    Raises:
        ValueError: A file that is not there or not whole, or `last` where no checkpoint is whole.
    """
    if ckpt_path is None:
        return None
    if str(ckpt_path) == NEWEST:
        return newest_checkpoint(run_dir)
    path = Path(ckpt_path)
    reason = damage(path)
    if reason:
        raise ValueError(f"ckpt_path: got {path}, expected a checkpoint: {reason}")
    return path


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The whole checkpoint of most steps in `checkpoints/` and among SLURM's `hpc_ckpt_*`; warns of damaged ones.

    Raises:
        ValueError: All of them are damaged.
    """
    paths = RunDirectory(run_dir).checkpoints()
    whole, reasons = [], []
    for path in paths:
        reason = damage(path)
        if reason:
            reasons.append(f"{path}: {reason}")
            warnings.warn(f"{path} is left out: {reason}", stacklevel=2)
        else:
            whole.append(path)
    if reasons and not whole:
        raise ValueError(
            f"ckpt_path: got {NEWEST!r}, expected a whole checkpoint in {run_dir}; start over with --overwrite true "
            f"({'; '.join(reasons)})"
        )
    return max(whole, key=lambda path: (load(path)["global_step"], path.stat().st_mtime), default=None)


def check_same_model(path: Path, model: LightningModule) -> None:
    """Raise ValueError unless a checkpoint is whole and of a model of the same architecture."""
    checkpoint = read_checkpoint(path)
    check_restorable(path, checkpoint, goes_on=False)
    saved = checkpoint["hyper_parameters"]
    given = dict(model.hparams)
    names = list(MODEL_SETTINGS)
    if "lora" in (saved.get("method"), given.get("method")):
        names += [name for name in saved if name == "method" or name.startswith("lora_")]
    _compare(path, {name: saved.get(name) for name in names}, given)
    check_fits(f"ckpt_path: {path}: state_dict", checkpoint["state_dict"], model)


def check_same_classes(path: Path, data: LightningDataModule) -> None:
    """Raise ValueError if a checkpoint was made with other classes than the data has, or in another order.

    Lightning asks a data module of the same class only. Where one side has no names, nothing is known.
    """
    records = (value for value in load(path).values() if isinstance(value, dict) and "class_names" in value)
    saved, given = next(records, {}).get("class_names"), getattr(data, "class_names", None)
    if not saved or not given or chosen_by_number(saved) or chosen_by_number(given):
        return
    # before they were, ImageNet had two classes of one name
    saved, given = distinct_names(saved), list(given)
    if set(saved) != set(given):
        raise ValueError(
            f"data: got the classes {first_few(set(given) - set(saved))}, expected in their place "
            f"{first_few(set(saved) - set(given))}, with which {path} was made"
        )
    if saved != given:
        raise ValueError(
            f"data: got the classes in the order {given[:5]}, expected {saved[:5]}, with which {path} was made"
        )


def check_same_run(path: Path, model: LightningModule, data: LightningDataModule) -> None:
    """Raise ValueError unless a checkpoint is whole, and model settings and data are those that it was made with."""
    checkpoint = read_checkpoint(path)
    check_restorable(path, checkpoint, goes_on=True)
    saved, given = checkpoint["hyper_parameters"], dict(model.hparams)
    # options that came after the checkpoint are not in it
    names = set(saved) - set(MODEL_FREE_TO_CHANGE)
    _compare(path, {name: saved.get(name) for name in names}, given)
    name = type(data).__qualname__
    if name not in checkpoint:
        raise ValueError(f"data: got {name}, expected the data with which {path} was made")
    data.load_state_dict(checkpoint[name])
    check_fits(f"ckpt_path: {path}: state_dict", checkpoint["state_dict"], model)


def _compare(path: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    for name in sorted(saved):
        if not same_setting(saved[name], given.get(name)):
            raise ValueError(
                f"model.{name}: got {given.get(name)!r}, expected {saved[name]!r}, with which {path} was made"
            )
