import pytest
from timm.data import ImageNetInfo

from mhc_vision.inference.folder_labels import folder_labels, is_imagenet_1k


@pytest.mark.parametrize(
    ("names", "num_classes", "own", "expected"),
    [
        (["dog", "cat"], 3, ["ant", "cat", "dog"], [2, 1]),
        # own names that are numbers have the order of the training's folders
        (["0", "1", "10", "2"], 4, ["0", "1", "10", "2"], [0, 1, 2, 3]),
        (["0", "1", "10", "2"], 1000, [], [0, 1, 10, 2]),
        (["000", "007", "010"], 11, [], [0, 7, 10]),
        # ImageNet-V2 for a model that was trained on ImageNet's folders
        (["0", "281", "999"], 1000, ImageNetInfo("imagenet-1k").label_names(), [0, 281, 999]),
        (["n01440764", "n15075141"], 1000, [], [0, 999]),
        (["n15075141", "n02123045"], 1000, ImageNetInfo("imagenet-1k").label_names(), [999, 281]),
    ],
)
def test_labels_come_from_names_and_never_from_places(names, num_classes, own, expected):
    labels, _ = folder_labels(names, num_classes, {name: index for index, name in enumerate(own)})
    assert [labels[name] for name in names] == expected


@pytest.mark.parametrize(("subset", "num_classes"), [("imagenet-12k", 11821), ("imagenet-22k", 21841)])
def test_wordnet_ids_are_those_of_the_set_with_as_many_classes(subset, num_classes):
    synsets = ImageNetInfo(subset).label_names()
    chosen = [synsets[-1], synsets[5]]
    labels, rule = folder_labels(chosen, num_classes, {})
    assert labels == {synsets[-1]: num_classes - 1, synsets[5]: 5}
    assert subset in rule


@pytest.mark.parametrize(
    ("names", "num_classes", "own", "message"),
    [
        (["cat", "cow"], 2, ["cat", "dog"], "folder: got cow, expected names of the model's 2 classes, as others are"),
        (
            ["3", "4"],
            3,
            ["0", "1", "10"],
            "3, 4 do not tell which of the model's 3 classes they are; expected 0, 1, 10",
        ),
        (["0", "3"], 3, [], "class numbers 3 are too large for a model of 3 classes"),
        (["1", "01"], 3, [], "more than one class folder for number 1"),
        (["²"], 3, [], "do not tell"),
        (
            ["cat", "0"],
            3,
            [],
            "0, cat do not tell which of the model's 3 classes they are; expected numbers from 0 to 2",
        ),
        (["n01440764"], 10, [], "do not tell"),
        (["n01440764"], 1000, [f"class {index}" for index in range(1000)], "do not tell"),
        (["n00000001"], 1000, [], "n00000001: not in imagenet-1k, whose 1000 classes the model has"),
        ([f"x{index}" for index in range(9)], 3, [], "x0, x1, x2, x3, x4 and 4 more do not tell"),
    ],
)
def test_names_that_do_not_tell_the_class_are_shown(names, num_classes, own, message):
    with pytest.raises(ValueError, match=r"^folder: ") as caught:
        folder_labels(names, num_classes, {name: index for index, name in enumerate(own)})
    assert message in str(caught.value)


def test_imagenets_order_counts():
    synsets = ImageNetInfo("imagenet-1k").label_names()
    assert is_imagenet_1k(1000, {})
    assert is_imagenet_1k(1000, {name: index for index, name in enumerate(synsets)})
    assert not is_imagenet_1k(1000, {name: index for index, name in enumerate(reversed(synsets))})
    assert not is_imagenet_1k(100, {name: index for index, name in enumerate(synsets[:100])})
    assert not is_imagenet_1k(999, {})
