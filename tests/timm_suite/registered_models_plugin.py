"""pytest plugin: lets timm's own test-suite run on the models that mhc_vision registers.

`pytest -p registered_models_plugin --registered-models NAME,NAME ... <timm>/tests/test_models.py` keeps, of all tests
with a model's name, those of the named models.
"""

import pytest
from timm.models import _registry

import mhc_vision  # noqa: F401

# timm chooses the models of some tests by module; ours stand beside those whose class they extend
for ours, theirs in {"vision_transformer_mhc": "vision_transformer", "eva_mhc": "eva"}.items():
    _registry._module_to_models[theirs] |= _registry._module_to_models[ours]

# they download weights and reference images of a hub repository named like the model
NEED_THE_HUB = ("test_model_inference", "test_model_load_pretrained", "test_model_features_pretrained")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--registered-models", help="names, separated by commas")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = set(config.getoption("--registered-models").split(","))
    items[:] = [
        item
        for item in items
        if getattr(item, "callspec", None)
        and item.callspec.params.get("model_name", "").partition(".")[0] in names
        and item.originalname not in NEED_THE_HUB
    ]
