"""Where a resumed run goes on."""

from types import SimpleNamespace

from lightning.pytorch.trainer.states import TrainerFn

from mhc_vision.training.callbacks.resume_position import ResumePosition


def test_data_of_unknown_length_keep_the_position_that_lightning_counted():
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        num_training_batches=float("inf"),
        accumulate_grad_batches=1,
    )
    counts = {"total": {"processed": 2}, "current": {"processed": 2}}
    checkpoint = {"global_step": 7, "loops": {"fit_loop": {"epoch_progress": counts}}}
    ResumePosition().on_load_checkpoint(trainer, None, checkpoint)
    assert counts == {"total": {"processed": 2}, "current": {"processed": 2}}
