import pytest
import timm
import torch
from torch import nn

from mhc_vision.models.instruments.steps import Step


@pytest.fixture
def quiet(monkeypatch):
    # the profiler would tell stderr that it starts and stops
    monkeypatch.setenv("KINETO_LOG_LEVEL", "6")


def test_memory_of_a_forward_pass_is_weights_and_activations(quiet):
    model = nn.Sequential(nn.Linear(1000, 500, bias=False), nn.Linear(500, 1000, bias=False))
    step = Step(model, torch.randn(100, 1000), train=False)
    step()
    # two matrices, and at the second product its input and its result; a page for what is around them
    expected = 4 * (2 * 1000 * 500 + 100 * (500 + 1000))
    assert expected <= step.peak_memory() <= expected + 4096


def test_memory_of_a_training_step_has_gradients_and_optimiser_too(quiet):
    model = nn.Linear(1000, 1000, bias=False)
    step = Step(model, torch.randn(10, 1000), train=True)
    step()
    # weights, gradients and two moments; AdamW has one or two such tensors more while it computes
    assert 4 * 4e6 < step.peak_memory() < 6.5 * 4e6
    # and where gradients are left from the last step, they do not count twice
    first = step.peak_memory()
    step()
    assert step.peak_memory() == first


def test_tied_weights_count_once(quiet):
    model = nn.Sequential(nn.Linear(500, 500, bias=False), nn.Linear(500, 500, bias=False))
    model[1].weight = model[0].weight
    assert Step(model, torch.randn(1, 500), train=False).peak_memory() < 1.1 * 4 * 500 * 500


def test_a_training_step_trains_and_a_forward_pass_does_not():
    model = timm.create_model("test_vit", img_size=32, depth=1, num_classes=0)
    images = torch.randn(2, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Step(model, images, train=False)()
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # of features, where there is no head
    Step(model, images, train=True, autocast=True)()
    assert model.training
    assert not torch.equal(model.state_dict()["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
