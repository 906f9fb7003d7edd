"""Classes, confusions and mistakes in a report, of few classes and of many."""

import numpy as np
import pytest

from mhc_vision.predictions import Predictions, Said
from mhc_vision.report.pages import to_markdown
from mhc_vision.report.prediction_blocks import confused_pairs, prediction_blocks


def _predictions(labels, classes, names, num_shown=0, channels=3):
    said = Said(np.array(labels), np.array(classes), np.linspace(0.5, 0.9, len(labels), dtype=np.float32))
    mistakes = said.at(said.most_confident_mistakes(num_shown))
    images = np.zeros((len(mistakes.labels), 8, 8, channels), dtype=np.uint8)
    return Predictions(said, tuple(names), "validation after step 10", mistakes, images)


def _cells(text, first):
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_few_classes_are_all_there(tmp_path):
    predictions = _predictions([0, 0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0, 2], ["cat", "dog", "$owl"], num_shown=3)
    text = to_markdown(prediction_blocks(predictions, tmp_path), tmp_path)
    assert "Evaluated: validation after step 10, 7 images, of which 4 are right (57.14 %)." in text
    assert _cells(text, "cat") == ["cat", "50.0", "2", "4"]
    assert _cells(text, "$owl") == ["$owl", "100.0", "1", "1"]
    confusions = text.split("## Confusions")[1]
    assert "2 of 2 pairs of classes" in confusions
    # two cats are called dogs, one dog a cat
    assert _cells(confusions, "cat") == ["cat", "dog", "2", "50.0", "1"]
    assert confusions.index("| cat ") < confusions.index("| dog ")
    for name in ("classes", "confusion", "mistakes"):
        assert f"](figures/{name}.png)" in text
    sheet = (tmp_path / "figures" / "mistakes.svg").read_text()
    assert "true: dog" in sheet
    # the sixth of seven: 0.5 + 0.4 * 5 / 6
    assert "cat, 83 %" in sheet


def test_many_classes_are_told_by_the_worst_and_by_pairs(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(200), 5)
    classes = np.where(generator.random(1000) < 0.8, labels, (labels + 1) % 200)
    # one pair far more often than all others
    classes[:5] = 7
    names = [f"class {index}, of many" for index in range(200)]
    text = to_markdown(prediction_blocks(_predictions(labels, classes, names), tmp_path), tmp_path)
    assert "The 15 least accurate of 200 classes:" in text
    assert _cells(text, "class 0, of many") == ["class 0, of many", "0.0", "0", "5"]
    confusions = text.split("## Confusions")[1]
    assert _cells(confusions, "class 0, of many")[1:4] == ["class 7, of many", "5", "100.0"]
    assert "24 classes with the most confusions, of 200" in confusions
    assert len([line for line in confusions.splitlines() if line.startswith("| class ")]) == 20
    matrix = (tmp_path / "figures" / "confusion.svg").read_text()
    assert "all others" in matrix
    # names are cut to what tells them apart
    assert "class 7" in matrix
    assert "of many" not in matrix
    # no images were kept
    assert "mistakes" not in text.split("## Confusions")[1].split("\n| ")[0].lower()
    assert not (tmp_path / "figures" / "mistakes.png").exists()


def test_nothing_is_confused_where_all_is_right(tmp_path):
    text = to_markdown(prediction_blocks(_predictions([0, 1], [0, 1], "ab"), tmp_path), tmp_path)
    assert "No image is wrong" in text
    assert "## Confusions" not in text


def test_images_whose_logits_are_not_finite_are_counted(tmp_path):
    text = to_markdown(prediction_blocks(_predictions([0, 1], [0, -1], "ab"), tmp_path), tmp_path)
    assert "The logits of 1 images are not finite" in text
    assert "1 are right (50.00 %)" in text
    assert "pairs of classes" not in text


def test_pairs_come_most_frequent_first():
    confusion = np.array([[9, 1, 0], [3, 9, 0], [0, 2, 9]])
    assert confused_pairs(confusion) == [(1, 0), (2, 1), (0, 1)]
    assert confusion[0, 0] == 9


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_images_make_a_sheet(tmp_path, channels):
    prediction_blocks(_predictions([0] * 5, [1] * 5, "ab", num_shown=5, channels=channels), tmp_path)
    assert (tmp_path / "figures" / "mistakes.png").stat().st_size > 1000
