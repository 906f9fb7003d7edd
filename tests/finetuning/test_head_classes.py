import pytest
from timm.data import ImageNetInfo
from torch import nn

from mhc_vision.finetuning.head_classes import match_classes
from mhc_vision.inference.load_model import LoadedModel

INFO = ImageNetInfo("imagenet-1k")
SYNSETS = INFO.label_names()
DESCRIPTIONS = [INFO.index_to_description(index) for index in range(1000)]


def loaded(source: str, num_classes: int, **class_index: int) -> LoadedModel:
    settings = (224, 0.9, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    return LoadedModel(nn.Identity(), source, num_classes, 3, class_index, *settings)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (SYNSETS, "same"),
        (SYNSETS[::-1], "order"),
        ([*SYNSETS[:-1], "n99999999"], "other"),
        (DESCRIPTIONS, "same"),
        # another edition of them
        ([*DESCRIPTIONS[:900], *(f"{name}, " for name in DESCRIPTIONS[900:])], "same"),
        (DESCRIPTIONS[::-1], "other"),
        ([f"bird {index}" for index in range(1000)], "other"),
        ([f"class {index}" for index in range(1000)], "unknown"),
        (None, "unknown"),
    ],
)
def test_published_weights_of_imagenet_have_its_classes(names: list[str] | None, kind: str) -> None:
    match = match_classes(loaded("vit_base_patch16_224.augreg_in1k", 1000), names)
    assert match.kind == kind
    if kind == "order":
        assert match.order[0] == 999


def test_where_the_start_does_not_say_nothing_is_known() -> None:
    for model in (loaded("local-dir:x", 1000), loaded("vit_base_patch16_224", 7), loaded("x", 3, ant=0, bee=1)):
        names = SYNSETS[: model.num_classes]
        assert match_classes(model, names).said == "the start does not name its classes"
    assert match_classes(loaded("vit_base_patch16_224", 1000), SYNSETS, published_weights=False).kind == "unknown"
    placeholders = {f"class {index}": index for index in range(3)}
    assert match_classes(loaded("x", 3, **placeholders), ["a", "b", "c"]).kind == "unknown"


def test_names_of_the_model_are_compared_with_those_of_the_data() -> None:
    model = loaded("checkpoint x", 3, ant=0, bee=1, cat=2)
    assert match_classes(model, ["ant", "bee", "cat"]).kind == "same"
    assert match_classes(model, ["cat", "ant", "bee"]).order == (2, 0, 1)
    other = match_classes(model, ["ant", "cow", "cat"])
    assert (other.kind, other.said) == ("other", "the start has bee, the data has cow in their place")
    # as many, but not each once
    assert match_classes(model, ["ant", "ant", "bee"]).kind == "other"
