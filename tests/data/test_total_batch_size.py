"""Images of an optimiser step, over all processes and accumulated batches."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from mhc_vision.data import DigitsDataModule


def with_trainer(total: int, processes: int, accumulated: int, **options) -> DigitsDataModule:
    data = DigitsDataModule(batch_size=100, total_batch_size=total)
    trainer = {"training": False, "global_rank": 0, "world_size": processes, "accumulate_grad_batches": accumulated}
    data.trainer = SimpleNamespace(
        **{"callbacks": [], "state": SimpleNamespace(fn=None), "strategy": None, **trainer, **options}
    )
    return data


@pytest.mark.parametrize(("processes", "accumulated", "expected"), [(1, 1, 96), (2, 1, 48), (1, 3, 32), (4, 2, 12)])
def test_it_is_divided_by_processes_and_accumulated_batches(processes: int, accumulated: int, expected: int) -> None:
    data = with_trainer(96, processes, accumulated)
    assert len(next(iter(data.train_dataloader()))[1]) == expected
    assert len(next(iter(data.val_dataloader()))[1]) == expected
    assert data.state_dict()["batch_size"] == expected


def test_the_batch_of_a_process_keeps_its_meaning_without_it() -> None:
    data = with_trainer(96, 2, 3)
    data.total_batch_size = None
    assert data.batch_size == 100


def test_a_checkpoint_fits_where_the_division_is_the_same() -> None:
    saved = with_trainer(96, 2, 1).state_dict()
    same = DigitsDataModule(batch_size=48)
    same.trainer = with_trainer(96, 2, 1).trainer
    same.load_state_dict(saved)
    for division, difference in (
        ((192, 2, 1), "batch_size: got 96, expected 48 as in the checkpoint"),
        ((192, 2, 2), "accumulate_grad_batches: got 2, expected 1 as in the checkpoint"),
        ((192, 4, 1), "num_processes: got 4, expected 2 as in the checkpoint"),
    ):
        with pytest.raises(ValueError, match=difference):
            with_trainer(*division).load_state_dict(saved)


def test_a_rest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"total_batch_size: got 100, expected a multiple of 6: 2 processes x 3 "):
        with_trainer(100, 2, 3).train_dataloader()


def test_accumulation_that_changes_is_refused() -> None:
    data = with_trainer(96, 1, 1, callbacks=[GradientAccumulationScheduler({0: 1, 4: 2})])
    with pytest.raises(ValueError, match=r"expected trainer\.accumulate_grad_batches, the same in all epochs"):
        data.train_dataloader()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="total_batch_size: got 0, expected a whole number from 1"):
        DigitsDataModule(total_batch_size=0)
