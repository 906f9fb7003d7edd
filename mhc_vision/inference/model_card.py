"""The page that lies beside an exported model: what it is and where it comes from, from the records of its run."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mhc_vision.inference.checkpoint_model import CheckpointModel
from mhc_vision.inference.hub_metadata import hub_metadata
from mhc_vision.inference.model_identity import weights_sha256
from mhc_vision.inference.run_data import read_run_config, run_config
from mhc_vision.json_files import json_object, read_json_object
from mhc_vision.models.instruments.costs import count_parameters
from mhc_vision.report.markdown import code_span, inline_markdown, markdown_table
from mhc_vision.run_directory import METRICS_LOG, SUMMARY
from mhc_vision.stored.value_kinds import MAPPING, PLAIN, TEXT, Kind, check_fields, list_of, number, whole

# said elsewhere on the page, or nothing about the model
_SAID = ("name", "connection", "num_streams", "num_classes", "compile", "seed")
_OF_BATCH = ("batch_size", "num_processes", "accumulate_grad_batches")
_OF_TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val")
_OF_SUMMARY: dict[str, Kind] = {
    "steps": whole(0),
    "epochs": whole(0),
    "seed": PLAIN,
    "wall_time_s": number(0),
    "device": TEXT,
    "num_processes": whole(1),
    "metrics": MAPPING,
    "versions": MAPPING,
    "command": list_of(Kind("a text", lambda word: isinstance(word, str)), what="words"),
}


def model_card(
    source: str,
    checkpoint: Path,
    loaded: CheckpointModel,
    weights: Literal["default", "raw"],
    examples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads (see `hub_metadata`).

    Args:
        source: What `timm.create_model` takes: `local-dir:` or `hf-hub:` with a name, of which the last part is the
            title.
        checkpoint: What was exported; `config.yaml`, `summary.json` and `metrics.jsonl` of its run lie above it, those
            that there are.
        loaded: Its model and records.
        weights: Which of its weights, as in `load_checkpoint_model`.
        examples: Of `hub_metadata`.
    """
    name = source.rpartition(":")[2].rpartition("/")[2]
    config_file = run_config(checkpoint)
    run_dir = checkpoint.parent.parent if config_file is None else config_file.parent
    config = {} if config_file is None else read_run_config(config_file)
    summary_file = run_dir / SUMMARY
    summary = _read_summary(summary_file) if summary_file.is_file() else {}
    said, figures = _figures(loaded, weights, summary, run_dir / METRICS_LOG)
    parts = [
        hub_metadata(name, loaded, config, figures, examples),
        f"# {inline_markdown(name)}",
        _what_it_is(loaded, weights),
        _usage(source, loaded.settings["connection"]),
        "## Figures",
        said,
        _table({**figures, **_identity(loaded)}),
        "## Data",
        _table(_data_rows(loaded)),
        "## Training",
        _table(_training_rows(loaded, config)),
        *_run(summary),
    ]
    return "\n\n".join(parts) + "\n"


def _read_summary(path: Path) -> dict[str, Any]:
    summary = read_json_object("summary", path, needed=_OF_SUMMARY)
    check_fields(f"summary: {path}", summary, _OF_SUMMARY)
    return summary


def _what_it_is(loaded: CheckpointModel, weights: str) -> str:
    settings = loaded.settings
    connection = settings["connection"]
    streams = f"{connection} hyper-connections, {settings['num_streams']} streams" if connection else "plain residuals"
    which = ""
    if loaded.has_average:
        average = "an average over the steps (EMA)"
        which = f" The weights are {'those of the last step, not their average' if weights == 'raw' else average}."
    return (
        f"{code_span(settings['name'])} with {streams}, a classifier of {settings['num_classes']} classes, trained by "
        f"mhc_vision.{which}"
    )


def _usage(source: str, connection: str | None) -> str:
    needed = "import mhc_vision  # registers the architecture with timm\n" if connection else ""
    return (
        f"```python\nimport timm\n{needed}\n"
        f"model = timm.create_model({source!r}, pretrained=True).eval()\n"
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n```"
    )


def _figures(loaded: CheckpointModel, weights: str, summary: dict[str, Any], log: Path) -> tuple[str, dict[str, Any]]:
    """Of these very weights, with a sentence: `best.ckpt` is not what the run ended with."""
    rows: dict[str, Any] = {}
    said = f"After {loaded.step:,} optimiser steps, as the run recorded."
    if weights == "raw":
        said += " It validated the average of the weights, so there are no figures of these."
    else:
        rows = _logged(log, loaded.step) if log.is_file() else {}
        if summary.get("steps") == loaded.step:
            # the figures of validation may be of an earlier step
            validated = summary.get("validated_at_step", loaded.step) == loaded.step
            prefixes = ("val/", "test/") if validated else ("test/",)
            rows |= {key: value for key, value in summary["metrics"].items() if key.startswith(prefixes)}
        if not rows:
            said += " It recorded no validation of these weights."
    return said, rows


def _identity(loaded: CheckpointModel) -> dict[str, Any]:
    counts = count_parameters(loaded.model)
    rows = {"weights (SHA-256)": weights_sha256(loaded.model.state_dict()), "parameters": counts["total"]}
    if counts["connections"]:
        rows["parameters of the connections"] = counts["connections"]
    return rows


def _logged(log: Path, step: int) -> dict[str, Any]:
    """Validation figures after `step` optimiser steps; of a run that went over it again, the later ones."""
    figures: dict[str, Any] = {}
    for place, line in enumerate(log.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        # a killed run may leave half a line
        if not line.endswith("\n"):
            break
        record = json_object("log", line, f"{log}, line {place}", needed=("step",))
        # lines count steps from 0
        if record["step"] == step - 1:
            figures |= {key: value for key, value in record.items() if _is_evaluation(key)}
    return figures


def _is_evaluation(key: str) -> bool:
    return key.startswith(("val/", "test/"))


def _data_rows(loaded: CheckpointModel) -> dict[str, Any]:
    data = loaded.data
    if not data:
        return {"data": "of a data module that left no record", "classes": loaded.settings["num_classes"]}
    rows = {"data": loaded.data_name, "training images": data.get("num_train"), "classes": len(data["class_names"])}
    recorded = {name: data.get(name) for name in ("mean", "std", "crop_pct", "interpolation")}
    return _told({**rows, **recorded, **data.get("options", {})})


def _training_rows(loaded: CheckpointModel, config: Mapping[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    if set(_OF_BATCH) <= set(loaded.data):
        rows["images an optimiser step"] = math.prod(loaded.data[name] for name in _OF_BATCH)
    trainer = config.get("trainer") or {}
    MAPPING.check("config: trainer", trainer)
    # -1: Lightning's word for no limit
    rows |= _told({name: trainer.get(name) for name in _OF_TRAINER if trainer.get(name) != -1})
    if callbacks := trainer.get("callbacks"):
        # Lightning takes a single one, too
        listed = callbacks if isinstance(callbacks, list) else [callbacks]
        rows["callbacks"] = ", ".join(map(_call, listed))
    return rows | _told(loaded.settings)


def _run(summary: Mapping[str, Any]) -> list[str]:
    if not summary:
        return ["## Run", "The run has left no summary: it had not ended."]
    rows = {
        "optimiser steps": summary["steps"],
        "epochs": summary["epochs"],
        "seed": summary["seed"],
        "wall time (s)": summary["wall_time_s"],
        "device": summary["device"],
        "processes": summary["num_processes"],
    }
    versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
    return [
        "## Run",
        _table(rows),
        f"Command: {code_span(shlex.join(summary['command']))}",
        f"Versions: {inline_markdown(versions)}",
    ]


def _call(entry: Mapping[str, Any]) -> str:
    """A class of the configuration and its arguments."""
    MAPPING.check("config: trainer.callbacks", entry)
    TEXT.check("config: trainer.callbacks.class_path", entry.get("class_path"))
    given = entry.get("init_args") or {}
    MAPPING.check("config: trainer.callbacks.init_args", given)
    arguments = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"{entry['class_path'].rpartition('.')[2]}({arguments})"


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that say something: what is off or not given does not."""
    return {
        key: value
        for key, value in settings.items()
        if key not in _SAID and value is not None and value is not False and value != {}
    }


def _table(rows: Mapping[str, Any]) -> str:
    # of YAML also dates
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in rows.items()}
    return markdown_table([{"setting": key, "value": text} for key, text in texts.items()])
