import pytest

from mhc_vision.comparison.run import slots
from mhc_vision.comparison.run.slots import describe, find_slots


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(slots.torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_cpu_takes_as_many_runs_as_have_whole_cores(monkeypatch):
    monkeypatch.setattr(slots.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(slots, "available_cores", lambda: 7)
    assert len(find_slots(threads=2, gpus=1)) == 3
    assert len(find_slots(threads=16, gpus=0)) == 1
    assert describe(find_slots(2, 0, jobs=2), 2) == "2 at a time on CPU, 2 CPU threads each"


@pytest.mark.usefixtures("four_gpus")
def test_each_run_has_gpus_of_its_own(monkeypatch):
    assert [slot.gpus for slot in find_slots(1, 1)] == ["0", "1", "2", "3"]
    assert [slot.gpus for slot in find_slots(1, 2)] == ["0,1", "2,3"]
    assert [slot.gpus for slot in find_slots(1, 3)] == ["0,1,2"]
    assert [slot.gpus for slot in find_slots(1, 2, jobs=3)] == ["0,1", "2,3", "0,1"]
    assert {slot.gpus for slot in find_slots(1, 0)} == {""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6,7")
    environment = find_slots(2, 1)[2].environment(2)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-6"
    assert environment["OMP_NUM_THREADS"] == "2"


def test_runs_do_not_take_themselves_for_started_again_with_the_job_of_their_comparison(monkeypatch):
    for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(name, "1")
    assert not [name for name in find_slots(1, 0, jobs=1)[0].environment(1) if name.endswith("_RESTART_COUNT")]


@pytest.mark.usefixtures("four_gpus")
def test_what_the_machine_has_not_is_refused():
    with pytest.raises(ValueError, match="gpus: got 8, expected at most 4, which can be used here"):
        find_slots(1, 8)
    with pytest.raises(ValueError, match="--jobs: got 0"):
        find_slots(1, 1, jobs=0)
