"""DataLoaders that start when they are asked, and workers that outlive the first SIGTERM."""

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader


class LazyDataLoader(DataLoader):
    """Draws its order and starts its workers at the first batch, not when the iterator is made.

    Lightning makes the training iterator early: before it has restored the progress of a checkpoint when
    `configure_optimizers` reads `trainer.estimated_stepping_batches`. Workers that start to prefetch then would replay
    the order of epoch 0 in a resumed run.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def outlive_sigterm(worker: int) -> None:
    """Makes a worker of a DataLoader ignore its first SIGTERM; a `worker_init_fn`.

    Schedulers send SIGTERM to all processes of a job. A worker that died of it would end the training with an error in
    the middle of the step after which it saves; workers end with the process that they load for. The second SIGTERM
    ends them: torch and multiprocessing send it to workers that hang.

    Args:
        worker: Index of the worker, which does not matter.
    """

    def ignore_once(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, ignore_once)
