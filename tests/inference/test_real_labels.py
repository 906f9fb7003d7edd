import pytest
import torch

from mhc_vision.inference.real_labels import load_real_labels, real_accuracy, real_labels_of


def test_the_copy_of_timm_is_the_papers():
    labels = load_real_labels("timm")
    assert len(labels) == 50_000
    # 46,837 images keep a label, says the paper
    assert sum(map(bool, labels)) == 46_837


def test_a_file_is_found_by_the_number_in_its_name():
    names = [
        "ILSVRC2012_val_00000002.JPEG",
        "b/ILSVRC2012_val_00000001_n01440764.jpg",
        "a/ILSVRC2012_val_00000003.JPEG",
    ]
    assert real_labels_of(names, [[1], [2, 3], []]) == [[2, 3], [1], []]


def test_any_label_is_right_and_images_without_do_not_count():
    accuracy = real_accuracy(torch.tensor([3, 1, 7, -1, 0]), [[2, 3], [2], [], [1], [0]])
    assert accuracy == (2 / 3, 3)
    assert real_accuracy(torch.tensor([-1]), [[1]]) == (None, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1], [2", "expected JSON"),
        ("{}", "expected a list with a list of labels for each image"),
        ("[]", "expected a list with a list of labels for each image"),
        ("[[1], 2]", "entry 1: got 2, expected a list of class indices from 0 to 999"),
        ("[[1], [1000]]", r"entry 1: got \[1000\], expected a list of class indices"),
        ("[[-1]]", "entry 0"),
        ("[[true]]", "entry 0"),
        ('[["cat"]]', "entry 0"),
        ("[[1.0]]", "entry 0"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path, content, message):
    file = tmp_path / "real.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"real_labels: .*{file}.*{message}"):
        load_real_labels(str(file))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff\xe0")
    for file in (tmp_path / "missing.json", tmp_path / "image.json", tmp_path):
        with pytest.raises(ValueError, match=f"real_labels: {file} cannot be read"):
            load_real_labels(str(file))


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["cat.jpg"], [[1]], "got .*cat.jpg, expected a name as ILSVRC2012_val_00000001.JPEG"),
        (["ILSVRC2012_val_00000009.JPEG"], [[1]], "image 9, expected 1 to 1"),
        (["ILSVRC2012_val_00000000.JPEG"], [[1]], "image 0, expected 1 to"),
        (["ILSVRC2012_val_00000001.JPEG"], [[], [1]], "got 1 images without a label"),
    ],
)
def test_images_without_labels_of_their_own_are_named(names, labels, message):
    with pytest.raises(ValueError, match=f"real_labels: .*{message}"):
        real_labels_of(names, labels)
