"""The report of an evaluation: its figures, classes, confusions and the most confident mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mhc_vision.atomic_files import new_directory
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.transforms import eval_transform
from mhc_vision.inference.evaluate import Evaluation
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.model_class_names import names_of_classes
from mhc_vision.predictions import NUM_SHOWN, Predictions, thumbnails
from mhc_vision.report.pages import Block, Heading, Paragraph, Table, to_html, to_markdown
from mhc_vision.report.prediction_blocks import prediction_blocks
from mhc_vision.run_directory import PAGE, PREDICTIONS, REPORT


def evaluation_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """The figures of `evaluate_folder`'s record as the rows of a table, accuracies in percent."""
    metrics, settings = record["metrics"], record["settings"]
    figures = {"images": f"{record['num_images']:,}"}
    figures |= {f"{name} (%)": f"{100 * metrics[name]:.2f}" for name in ("top1", "top5") if name in metrics}
    if "loss" in metrics:
        figures["cross-entropy"] = f"{metrics['loss']:.4f}"
    if record["num_real_images"]:
        figures["images with ReaL labels"] = f"{record['num_real_images']:,}"
        figures["ReaL top1 (%)"] = f"{100 * metrics['real_top1']:.2f}"
    if settings["broken"] == "skip":
        figures["broken images, left out"] = f"{len(record['broken']):,}"
    figures["images/s"] = f"{record['images_per_s']:,.1f}"
    return [{"figure": name, "value": value} for name, value in figures.items()]


def write_evaluation_report(
    record: dict[str, Any], evaluation: Evaluation, loaded: LoadedModel, paths: Sequence[str], directory: Path
) -> None:
    """Writes `report.md`, `report.html`, `predictions.npz` and `figures/`; the directory appears when it is complete.

    Args:
        record: Of `evaluate_folder`.
        evaluation: With labels.
        loaded: The model.
        paths: The files that were evaluated, all of them.
        directory: New or empty.
    """
    assert evaluation.said is not None
    shown = evaluation.said.most_confident_mistakes(NUM_SHOWN)
    files = [paths[place] for place in evaluation.places[torch.from_numpy(shown)].tolist()]
    names = names_of_classes(loaded) or [str(index) for index in range(loaded.num_classes)]
    mistakes = evaluation.said.at(shown)
    predictions = Predictions(evaluation.said, tuple(names), record["folder"], mistakes, _images(files, loaded))
    with new_directory(directory) as temporary:
        predictions.save(temporary / PREDICTIONS)
        blocks: list[Block] = [
            Heading(1, f"Evaluation of {record['source']}"),
            Paragraph(f"Labels: {record['labels']}."),
            Table(evaluation_rows(record)),
            *prediction_blocks(predictions, temporary),
        ]
        if files:
            rows = [
                {"file": file, "true": names[label], "predicted": names[said], "softmax (%)": f"{100 * confidence:.1f}"}
                for file, label, said, confidence in zip(files, *mistakes, strict=True)
            ]
            blocks += [Paragraph("Their files, in the same order:"), Table(rows)]
        (temporary / REPORT).write_text(to_markdown(blocks, temporary), encoding="utf-8")
        (temporary / PAGE).write_text(to_html(blocks), encoding="utf-8")


def _images(files: Sequence[str], loaded: LoadedModel) -> NDArray[np.uint8]:
    """The files as the model saw them, small."""
    if not files:
        return np.zeros((0, 1, 1, 3), dtype=np.uint8)
    transform = eval_transform(loaded.img_size, loaded.interpolation, loaded.crop_pct, loaded.crop_mode)
    upright = bool(loaded.exif_orientation)
    pixels = torch.stack([transform(decode_rgb(file, upright)) for file in files])
    return thumbnails(pixels.float() / 255).numpy()
