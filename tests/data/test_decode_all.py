import os
import threading
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from mhc_vision.data.decode import decode_all
from mhc_vision.data.machine import check_memory


@pytest.mark.parametrize(("num_cores", "num_processes", "most"), [(4, 1, 4), (4, 2, 2), (4, 8, 1)])
def test_processes_share_the_cores(
    num_cores: int, num_processes: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "0.png")
    write_png(torch.full((3, 4, 4), 7, dtype=torch.uint8), path)
    # of a larger machine, which it may not use in whole
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cores)), raising=False)
    started = set()
    # the pool starts its threads while work waits, so all of them meet here
    together = threading.Barrier(most)

    def transform(image: torch.Tensor) -> torch.Tensor:
        started.add(threading.get_ident())
        together.wait(timeout=10)
        return image

    images = decode_all([path] * 8, transform, 4, num_processes)
    assert len(started) == most
    assert (images == 7).all()


def test_every_process_holds_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: 3 * 2**30)
    check_memory(2**10, 1, 2**10, num_copies=3)
    with pytest.raises(ValueError, match=r"img_size: 1024 images .* in each of 4 processes: got .* expected 4\.0 GiB"):
        check_memory(2**10, 1, 2**10, num_copies=4)
