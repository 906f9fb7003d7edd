"""Signals in the processes that load images."""

import signal
from types import FrameType


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
