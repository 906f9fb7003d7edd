"""The messages of other packages that commands do not show, each with its reason; all others are shown.

Everything here says nothing about the user's run, or says what a line of ours says better. Warnings are named by text,
category and module, log records by logger and text, as Lightning's documentation of warnings advises for single ones.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

FEW_CORES = 4
"""Up to so many cores, the advice on the number of workers does not help."""


class SilencedRecord(NamedTuple):
    """A log record: its logger, how its text begins (a regular expression), and why it is not shown."""

    logger: str
    text: str
    reason: str


class SilencedWarning(NamedTuple):
    """A warning: how its text begins and where it comes from (regular expressions), its category, and the reason."""

    text: str
    module: str
    category: type[Warning]
    reason: str


_RANK_ZERO = "lightning.pytorch.utilities.rank_zero"
_LIGHTNING = r"lightning\."

RECORDS = (
    SilencedRecord(_RANK_ZERO, r"💡 Tip: ", "advertises packages"),
    SilencedRecord(_RANK_ZERO, r"[GT]PU available: ", "the first line of a training names the device"),
    SilencedRecord("lightning.pytorch.accelerators.cuda", r"LOCAL_RANK: \d+ - CUDA_VISIBLE_DEVICES", "as above"),
    SilencedRecord(_RANK_ZERO, r"Using \w+ Automatic Mixed Precision", "as above: the precision, too"),
    SilencedRecord("lightning.fabric.utilities.seed", r"(\[rank: \d+\] )?Seed set to ", "config.yaml has the seed"),
    SilencedRecord(_RANK_ZERO, r"Loading `train_dataloader` to estimate", "it is read for the schedule, always"),
    SilencedRecord(_RANK_ZERO, r"`Trainer\.fit` stopped: `max_(epochs|steps)=", "the last line of a training shows it"),
    SilencedRecord(_RANK_ZERO, r"Resto(ring|red all) states from the checkpoint", "`resuming from` says it"),
    SilencedRecord(
        "torch.utils.cpp_extension", r"No CUDA runtime is found, using CUDA_HOME", "nothing here compiles for CUDA so"
    ),
    SilencedRecord(
        "timm.data.model_config",
        r"Pretrained (mean|std) does not match ",
        "the mean over the channels is what images of another number of channels are normalised with here",
    ),
)

WARNINGS = (
    SilencedWarning(
        r"`isinstance\(treespec, LeafSpec\)` is deprecated", _LIGHTNING, FutureWarning, "Lightning's own code"
    ),
    SilencedWarning(
        r"Checkpoint directory .* exists and is not empty",
        _LIGHTNING,
        UserWarning,
        "a run directory is checked before: it is resumed or replaced, as was asked",
    ),
    SilencedWarning(
        r"The number of training batches \(\d+\) is smaller than the logging interval",
        _LIGHTNING,
        UserWarning,
        "the log counts steps of the whole run, not of an epoch, and recipes set the interval so",
    ),
)

WARNINGS_OF_SMALL_MACHINES = (
    SilencedWarning(
        r"The '\w+' does not have many workers",
        _LIGHTNING,
        UserWarning,
        "there are no cores for them",
    ),
    SilencedWarning(
        r"This DataLoader will create \d+ worker processes in total",
        r"torch\.utils\.data",
        UserWarning,
        "recipes have the workers for the machine that they name; on this one, they take turns",
    ),
)


@contextmanager
def silenced() -> Iterator[None]:
    """Keeps the messages above from being shown, until it ends."""
    filters = [(logging.getLogger(record.logger), _Drop(record.text)) for record in RECORDS]
    for logger, drop in filters:
        logger.addFilter(drop)
    try:
        with warnings.catch_warnings():
            for text, module, category, _ in (*WARNINGS, *_of_this_machine()):
                warnings.filterwarnings("ignore", message=text, category=category, module=module)
            yield
    finally:
        for logger, drop in filters:
            logger.removeFilter(drop)


def _of_this_machine() -> tuple[SilencedWarning, ...]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return WARNINGS_OF_SMALL_MACHINES if cores <= FEW_CORES else ()


class _Drop(logging.Filter):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = re.compile(text)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._text.match(record.getMessage()) is None
