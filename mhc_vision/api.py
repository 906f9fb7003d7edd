"""The main jobs from Python, by the same code as the commands: `finetune`, `train` and `predict`.

Importing this module is light; each function imports what it needs when it is called.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mhc_vision.checks import nearest
from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.messages import failures_raised
from mhc_vision.json_files import read_json_object
from mhc_vision.run_directory import BEST, LAST, SUMMARY
from mhc_vision.silenced import silenced

if TYPE_CHECKING:
    from mhc_vision.training.cli import TrainCLI

_PathLike = str | PathLike[str]
# where a name without its section is looked for; what model and data both have, the model has from the data
_SECTIONS = ("", "trainer.", "data.", "model.")
# of a terminal
_NOT_HERE = {"help", "print_config"}


@dataclass(frozen=True)
class Run:
    """What a training has left.

    Attributes:
        directory: The run directory: config.yaml, checkpoints/, metrics.jsonl, summary.json and report.html.
        metrics: The last values of what was logged, such as `val/top1`, a fraction in [0, 1], `val/loss` in nats and,
            where the data has test images of their own, `test/top1`.
        best_checkpoint: The checkpoint of the best validation; `None` where none was written, as by a probe.
        last_checkpoint: The one of the last step.
    """

    directory: Path
    metrics: dict[str, float]
    best_checkpoint: Path | None
    last_checkpoint: Path | None


@dataclass(frozen=True)
class Predictions:
    """What `predict` gives.

    Attributes:
        images: A record of each file that could be read, in order: `image`, its path, and `predictions`, the most
            probable class first, each with `class` (its name, or the index as text), `index` and `probability`.
        unreadable: What is wrong with each other file, with its name.
    """

    images: list[dict[str, Any]]
    unreadable: list[str]


def finetune(
    model: _PathLike,
    data: _PathLike,
    *,
    out: _PathLike | None = None,
    config: _PathLike | Sequence[_PathLike] = (),
    **options: Any,
) -> Run:
    """Fine-tunes or probes a pretrained ViT, as `mhc-vision finetune` does.

    Args:
        model: A timm name with or without a connection (`vit_small_patch14_reg4_dinov2_mhc`), a checkpoint, an exported
            directory, or `hf-hub:OWNER/NAME`.
        data: A folder of class folders, with or without `train/`, `val/` and `test/`: then a share of each class is
            held out to validate on, always the same, and the recipe follows from the number of images. Else a
            configuration file or the name of a recipe that has data (`finetune/cifar100`).
        out: Where the run goes. `None`: `runs/<name of the folder>`, or where the recipe says.
        config: Further configuration files or recipes that count for more, such as `connections/mhc`.
        **options: What counts for most: options of the command by name, with or without their section:
            `max_epochs=5`, `lr=1e-4`, `overwrite=True`, `**{"data.batch_size": 32}`.

    Raises:
        ValueError: For bad input, where the command ends with status 2.
        RuntimeError: The run has diverged.
    """
    from mhc_vision.command_line.recipes import find_recipe, list_recipes
    from mhc_vision.commands.finetune import full_words

    name = str(data)
    given = [*_configs(config), "--model.name", str(model), *_words("finetune", out, options)]
    is_folder = Path(name).is_dir()
    if not (is_folder or Path(name).is_file() or find_recipe(name)):
        hint = nearest(name, [recipe.name for recipe in list_recipes()])
        raise ValueError(
            f"data: got {name}, which is not there, expected a folder with class folders, a configuration file or a "
            f"recipe (mhc-vision list recipes){hint}"
        )
    words = [name, *given] if is_folder else ["--config", name, *given]
    with _as_errors():
        words = full_words(words)
        from mhc_vision.finetuning.cli import finetune_cli

        return _run(finetune_cli(words), words)


def train(
    config: _PathLike | Sequence[_PathLike],
    *,
    out: _PathLike | None = None,
    **options: Any,
) -> Run:
    """Trains a model, as `mhc-vision train` does.

    Args:
        config: Configuration files or names of recipes, of which later ones count for more:
            `["digits", "connections/mhc"]`.
        out: Where the run goes. `None`: where the configuration says, or `runs/default`.
        **options: As of `finetune`.

    Raises:
        ValueError: For bad input, where the command ends with status 2.
        RuntimeError: The run has diverged.
    """
    from mhc_vision.commands.train import HELP, checked_words

    with _as_errors():
        words = checked_words("train", ["fit", *_configs(config), *_words("train", out, options)], HELP)
        from mhc_vision.training.cli import TrainCLI

        return _run(TrainCLI, words)


def predict(
    model: _PathLike,
    images: _PathLike | Sequence[_PathLike],
    *,
    top_k: int = 5,
    connection: str | None = None,
    weights: Literal["default", "raw"] = "default",
    img_size: int | None = None,
    crop_pct: float | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    device: str = "auto",
    precision: Literal["32", "bf16"] = "32",
    exif_orientation: Literal["auto", "on", "off"] = "auto",
) -> Predictions:
    """Gives the most probable classes of image files, as `mhc-vision predict` does.

    Args:
        model: A checkpoint, an exported directory, a timm name or `hf-hub:OWNER/NAME`.
        images: A file or a folder, or several; of a folder every file, at any depth, hidden ones left out.
        top_k: Classes of each image, at most all.
        connection: Of a plain timm name.
        weights: `"raw"`: of a checkpoint, not the average of EMA.
        img_size: Height and width in pixels, in place of the model's own.
        crop_pct: Part of the shorter side that is cropped, in place of the model's own.
        batch_size: Images at once.
        num_workers: Processes that load images; 0 loads them here.
        device: `"auto"` (a GPU where there is one), or a device of torch.
        precision: `"32"`, or `"bf16"` for autocast.
        exif_orientation: Whether photos are turned upright; `"auto"` as the model was trained, and yes for models that
            do not say.

    Raises:
        ValueError: For bad input, where the command ends with status 2, and where no file can be read.
    """
    from mhc_vision.command_line.named_paths import check_model, check_there
    from mhc_vision.inference.options import InferenceOptions, ModelOptions

    paths = [Path(path) for path in ([images] if isinstance(images, str | PathLike) else images)]
    if not paths:
        raise ValueError("images: got none, expected files or folders")
    check_model(str(model))
    check_there("images", paths, "files or folders")
    from mhc_vision.inference.predict import predict_files

    with silenced():
        record = predict_files(
            str(model),
            paths,
            ModelOptions(connection, weights, img_size, crop_pct),
            InferenceOptions(batch_size, num_workers, device, precision),
            top_k,
            exif_orientation,
        )
    return Predictions(record["images"], record["unreadable"])


@contextmanager
def _as_errors() -> Iterator[None]:
    """What would end the program is raised; other packages' notes are not shown, as in a command."""
    try:
        with failures_raised(), silenced():
            yield
    except SystemExit as stop:
        # what Lightning makes of Ctrl-C inside the trainer
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise


def _run(cli_class: "type[TrainCLI]", words: Sequence[str]) -> Run:
    from mhc_vision.commands.train import run_cli

    trainer = run_cli(cli_class, words).trainer
    directory = Path(trainer.default_root_dir)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        # a trial of the code: what is there is of another run
        return Run(directory, {}, None, None)
    summary, best, last = (directory / name for name in (SUMMARY, BEST, LAST))
    return Run(
        directory=directory,
        metrics=read_json_object("out", summary, ("metrics",))["metrics"] if summary.is_file() else {},
        best_checkpoint=best if best.is_file() else None,
        last_checkpoint=last if last.is_file() else None,
    )


def _configs(config: _PathLike | Sequence[_PathLike]) -> list[str]:
    paths = [config] if isinstance(config, str | PathLike) else config
    return [word for path in paths for word in ("--config", str(path))]


def _words(command: str, out: _PathLike | None, options: dict[str, Any]) -> list[str]:
    """Options of Python as words of a command line."""
    words = [] if out is None else ["--trainer.default_root_dir", str(out)]
    of_data = {f"data.{name}" for names in catalog().data_options.values() for name in names}
    every = {*catalog().options[command], *of_data}
    known = {name for name in every if name.rpartition(".")[2] not in _NOT_HERE}
    for name, value in options.items():
        words += [f"--{_full_name(name, known)}", value if isinstance(value, str) else _text(name, value)]
    return words


def _full_name(name: str, known: set[str]) -> str:
    if name in known or "." in name:
        # what is below an option, such as model.model_args.depth, only the parser knows
        return name
    for section in _SECTIONS:
        if section + name in known:
            return section + name
    raise ValueError(f"{name}: there is no such option{nearest(name, {option.rpartition('.')[2] for option in known})}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, PathLike):
        return str(value)
    try:
        return json.dumps(value)
    except TypeError as error:
        raise ValueError(f"{name}: got {value!r}, expected a plain value: {error}") from error
