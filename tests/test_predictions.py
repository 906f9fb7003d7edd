"""What is kept of the predictions of an evaluation."""

import numpy as np
import pytest
import torch

from mhc_vision.predictions import NUM_SHOWN, SIDE, PredictionCollector, Predictions, Said, join_results


def _collect(logits, labels, images, batch_size):
    collector = PredictionCollector(lambda pixels: pixels)
    for parts in zip(images.split(batch_size), logits.split(batch_size), labels.split(batch_size), strict=True):
        collector.add(*parts)
    return collector.result()


@pytest.fixture
def evaluation():
    """60 images of 5 classes, of which the first pixel tells the number."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(60, 5, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    images = (torch.arange(60) / 255).view(-1, 1, 1, 1).expand(60, 3, 4, 4)
    return logits, labels, images


@pytest.mark.parametrize("batch_size", [7, 60])
def test_the_most_confident_mistakes_keep_their_images_whatever_the_batches(evaluation, batch_size):
    logits, labels, images = evaluation
    said, mistakes, shown = _collect(logits, labels, images, batch_size)
    confidences, classes = logits.softmax(1).max(1)
    assert said.labels.tolist() == labels.tolist()
    assert said.classes.tolist() == classes.tolist()
    by_hand = sorted((i for i in range(60) if classes[i] != labels[i]), key=lambda i: -confidences[i])[:NUM_SHOWN]
    assert len(by_hand) == NUM_SHOWN
    assert shown[:, 0, 0, 0].tolist() == by_hand
    assert mistakes.classes.tolist() == classes[by_hand].tolist()
    assert mistakes.labels.tolist() == labels[by_hand].tolist()
    assert said.most_confident_mistakes(3).tolist() == by_hand[:3]


def test_several_processes_agree_with_one(evaluation):
    logits, labels, images = evaluation
    alone = _collect(logits, labels, images, 10)
    parts = [_collect(logits[i::2], labels[i::2], images[i::2], 7) for i in range(2)]
    said, mistakes, shown = join_results(parts)
    assert shown.tolist() == alone[2].tolist()
    assert mistakes.confidences.tolist() == alone[1].confidences.tolist()
    assert sorted(zip(*said, strict=True)) == sorted(zip(*alone[0], strict=True))


def test_rows_that_are_not_finite_are_wrong_and_no_confusion():
    logits = torch.tensor([[2.0, 1.0], [float("nan"), 1.0], [0.0, float("inf")], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 1, 0])
    said, mistakes, images = _collect(logits, labels, torch.zeros(4, 1, 2, 2), 2)
    assert said.classes.tolist() == [0, -1, -1, 1]
    predictions = Predictions(said, ("a", "b"), "here", mistakes, images)
    assert predictions.confusion().tolist() == [[1, 1], [0, 0]]
    assert (predictions.totals().tolist(), predictions.right().tolist()) == ([3, 1], [1, 0])
    # the only mistake that says something
    assert mistakes.classes.tolist() == [1]
    assert images.shape == (1, 2, 2, 1)


def test_images_are_small_and_in_bytes():
    wrong, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    _, _, images = _collect(wrong, labels, torch.full((1, 3, 400, 200), 0.6), 1)
    assert images.shape == (1, SIDE, SIDE // 2, 3)
    assert images.dtype == np.uint8
    assert set(images.flatten().tolist()) == {153}


def test_without_a_batch_there_is_nothing():
    assert PredictionCollector(lambda pixels: pixels).result() is None


def test_a_file_holds_all_of_it_and_a_broken_one_is_named(tmp_path, evaluation):
    said, mistakes, images = _collect(*evaluation, 10)
    names = ("a", "b", "c", "d", "é")
    Predictions(said, names, "validation after step 7", mistakes, images).save(tmp_path / "predictions.npz")
    read = Predictions.load(tmp_path / "predictions.npz")
    assert (read.class_names, read.place) == (names, "validation after step 7")
    for ours, theirs in zip((*said, *mistakes, images), (*read.said, *read.mistakes, read.images), strict=True):
        assert ours.tolist() == theirs.tolist()
    whole = (tmp_path / "predictions.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    array = (tmp_path / "array.npy").read_bytes()
    for broken in (b"PK broken", b"", whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:], array):
        (tmp_path / "predictions.npz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"predictions: .*predictions\.npz cannot be read"):
            Predictions.load(tmp_path / "predictions.npz")


def test_logits_on_any_device_become_arrays():
    said = Said.of(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert (said.labels.tolist(), said.classes.tolist()) == ([1], [1])
    assert said.confidences[0] == pytest.approx(0.7310586)
