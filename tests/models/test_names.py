import pytest

from mhc_vision.models.names import ModelName, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vit_base_patch16_224", ("vit_base_patch16_224", None, "")),
        ("vit_base_patch16_224.augreg_in21k", ("vit_base_patch16_224", None, "augreg_in21k")),
        ("vit_base_patch16_224_mhc", ("vit_base_patch16_224", "mhc", "")),
        ("test_vit_shc.r160_in1k", ("test_vit", "shc", "r160_in1k")),
        ("mhc", ("mhc", None, "")),
        ("", ("", None, "")),
    ],
)
def test_names_are_split_and_joined(name: str, parts: tuple[str, str | None, str]) -> None:
    assert split_name(name) == ModelName(*parts)
    assert str(split_name(name)) == name


def test_forms_of_a_name() -> None:
    name = split_name("test_vit_dhc.r160_in1k")
    assert (name.registered, name.plain) == ("test_vit_dhc", "test_vit.r160_in1k")
