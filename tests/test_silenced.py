import importlib.util
import logging
import warnings

import pytest

from mhc_vision import silenced as messages
from mhc_vision.silenced import RECORDS, WARNINGS, silenced

EXAMPLES = (
    "💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]",
    "GPU available: False, used: False",
    "LOCAL_RANK: 0 - CUDA_VISIBLE_DEVICES: [0]",
    "Using bfloat16 Automatic Mixed Precision (AMP)",
    "[rank: 1] Seed set to 0",
    "Loading `train_dataloader` to estimate number of stepping batches.",
    "`Trainer.fit` stopped: `max_epochs=2` reached.",
    "Restored all states from the checkpoint at last.ckpt",
    "No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'",
    "Pretrained mean does not match 1 channels; using its mean value.",
)
OF_LIGHTNING = (
    "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec) and treespec.is_leaf()`",
    "Checkpoint directory runs/a/checkpoints exists and is not empty.",
    "The number of training batches (3) is smaller than the logging interval Trainer(log_every_n_steps=50).",
)


@pytest.mark.parametrize(("record", "text"), zip(RECORDS, EXAMPLES, strict=True), ids=lambda value: str(value)[:20])
def test_a_record_is_not_shown_and_others_of_its_logger_are(caplog, record, text):
    logger = logging.getLogger(record.logger)
    with caplog.at_level(logging.INFO, logger=record.logger):
        with silenced():
            logger.info(text)
            logger.warning("something is wrong: %s", text)
        logger.info(text)
    assert caplog.messages == [f"something is wrong: {text}", text]


def _warn(text, category, module):
    warnings.warn_explicit(text, category, filename="x.py", lineno=1, module=module)


@pytest.mark.parametrize(
    ("warning", "text"), zip(WARNINGS, OF_LIGHTNING, strict=True), ids=lambda value: str(value)[:20]
)
def test_a_warning_of_lightning_is_not_shown_and_the_same_of_others_is(recwarn, warning, text):
    with silenced():
        _warn(text, warning.category, "lightning.pytorch.trainer")
        _warn(text, warning.category, "my_model")
        _warn("the loss is not finite", UserWarning, "lightning.pytorch.trainer")
    assert [str(caught.message) for caught in recwarn] == [text, "the loss is not finite"]


@pytest.mark.parametrize(("cores", "is_shown"), [(2, False), (64, True)])
def test_workers_are_asked_for_where_there_are_cores(recwarn, monkeypatch, cores, is_shown):
    monkeypatch.setattr(messages.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    with silenced():
        _warn("The 'val_dataloader' does not have many workers which may be", UserWarning, "lightning.pytorch.trainer")
        _warn("This DataLoader will create 12 worker processes in total.", UserWarning, "torch.utils.data.dataloader")
    assert len(recwarn) == (2 if is_shown else 0)


def test_the_loggers_are_those_that_say_it():
    assert [record.logger for record in RECORDS if importlib.util.find_spec(record.logger) is None] == []


def test_a_training_says_nothing_of_others(train, caplog, recwarn):
    train("--trainer.log_every_n_steps", "50")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("lightning")] == []
    # Python shows nobody those
    shown = [warning for warning in recwarn if not issubclass(warning.category, DeprecationWarning)]
    assert [str(warning.message) for warning in shown if "lightning" in warning.filename] == []
