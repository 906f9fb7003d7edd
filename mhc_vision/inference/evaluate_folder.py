"""From a model's name and a folder to a record of how accurate the one is on the other."""

from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import check_new_directory
from mhc_vision.data.folders import class_folders, list_class_images
from mhc_vision.inference.evaluate import evaluate
from mhc_vision.inference.evaluation_images import evaluation_folder, list_flat_images
from mhc_vision.inference.evaluation_report import write_evaluation_report
from mhc_vision.inference.folder_labels import folder_labels, is_imagenet_1k
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.options import EvaluationOptions, ModelOptions
from mhc_vision.inference.real_labels import load_real_labels, real_accuracy, real_labels_of
from mhc_vision.version import versions


def evaluate_folder(
    name: str,
    folder: Path,
    model_options: ModelOptions | None = None,
    options: EvaluationOptions | None = None,
    real_labels: str | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a model on the images of a folder.

    Args:
        name: Of the model, as in `load_model`.
        folder: `folder/<class>/*`, or a folder with such a `val/` or `test/`. With `real_labels`, the files of
            ImageNet's validation set, in class folders or not.
        model_options: Of `load_model`.
        options: Of `evaluate`.
        real_labels: ReaL's labels, as in `load_real_labels`.
        report: A new or empty directory for a report with classes, confusions and mistakes; class folders only.

    Returns:
        `model`, `source`, what `model_identity` says, `weights`, `num_classes`, `folder` (that was read), `labels`
        (where they come from; `None` for a flat folder), `num_images`, `metrics` (`top1`, `top5`, `loss`, `real_top1`:
        those there are, accuracies in [0, 1]), `num_real_images`, `broken`, `images_per_s`, `settings` and `versions`.

    Raises:
        ValueError: If something is missing, wrong, or does not fit together; mostly before an image is read.
    """
    model_options = model_options or ModelOptions()
    options = options or EvaluationOptions()
    folder = evaluation_folder(folder)
    classes = class_folders(folder)
    if report is not None:
        check_new_directory(report, "report")
        if not classes:
            raise ValueError(f"report: got {folder} without class folders, expected {folder}/<class>/*.jpg")
    if not classes and real_labels is None:
        raise ValueError(f"folder: got {folder} without class folders, expected {folder}/<class>/*.jpg")
    reassessed = None if real_labels is None else load_real_labels(real_labels)
    loaded = load_model(name, **vars(model_options))
    if reassessed is not None and not is_imagenet_1k(loaded.num_classes, loaded.class_index):
        raise ValueError(
            f"real_labels: got {loaded.source} with {loaded.num_classes} classes, expected ImageNet's 1000"
        )
    labels: list[int] | None = None
    rule = None
    if classes:
        label_of, rule = folder_labels(classes, loaded.num_classes, loaded.class_index)
        paths, labels = list_class_images(folder, label_of)
    else:
        paths = list_flat_images(folder)
    allowed = None if reassessed is None else real_labels_of(paths, reassessed)
    result = evaluate(loaded, paths, labels, options)
    applied = {"exif_orientation": bool(loaded.exif_orientation)}
    metrics = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
    num_real_images = 0
    if allowed is not None:
        metrics["real_top1"], num_real_images = real_accuracy(result.predictions, allowed)
    record = {
        "model": name,
        "source": loaded.source,
        **model_identity(loaded),
        "weights": model_options.weights,
        "num_classes": loaded.num_classes,
        "folder": str(folder),
        "labels": rule,
        "num_images": result.num_images,
        "metrics": {key: value for key, value in metrics.items() if value is not None},
        "num_real_images": num_real_images,
        "broken": result.broken,
        "images_per_s": round(result.images_per_s, 1),
        "settings": {**loaded.data_settings(), **applied, **vars(options), "device": str(options.torch_device())},
        "versions": versions(),
    }
    if report is not None:
        write_evaluation_report(record, result, loaded, paths, report)
    return record
