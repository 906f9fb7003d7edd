"""`catalog.json` says what the package has."""

import pytest

from mhc_vision.command_line.catalog import catalog
from mhc_vision.make_catalog import make_catalog, model_line
from mhc_vision.models.architectures import EVAS, VISION_TRANSFORMERS

MADE_BY = "python -m mhc_vision.make_catalog makes it again"
ARCHITECTURES = (*VISION_TRANSFORMERS, *EVAS)


def test_names_are_those_of_the_package(monkeypatch):
    monkeypatch.setattr("mhc_vision.make_catalog.model_line", catalog().models.get)
    assert make_catalog() == catalog(), MADE_BY


@pytest.mark.parametrize("name", [*ARCHITECTURES[:2], *ARCHITECTURES[-3:-1]])
def test_sizes_of_models_are_those_of_the_package(name):
    assert catalog().models[name] == model_line(name), MADE_BY


@pytest.mark.slow
def test_all_sizes_of_models():
    assert catalog().models == {name: model_line(name) for name in ARCHITECTURES}, MADE_BY
