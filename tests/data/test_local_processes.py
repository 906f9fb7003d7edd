from types import SimpleNamespace

import pytest

from mhc_vision.data.machine import local_processes


def test_the_trainer_knows_and_before_it_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert local_processes(None) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert local_processes(None) == 8
    assert local_processes(SimpleNamespace(num_devices=2)) == 2


@pytest.mark.parametrize("wrong", ["0", "-1", "many", ""])
def test_a_number_that_is_none_is_named(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", wrong)
    with pytest.raises(ValueError, match=f"LOCAL_WORLD_SIZE: got '{wrong}'"):
        local_processes(None)
