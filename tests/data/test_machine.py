import os
from pathlib import Path

import pytest

from mhc_vision.data import machine as available_memory


def test_it_is_some_of_the_memory_there_is() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < available_memory.available_memory() <= physical


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:    1000 kB\nHugePages_Total:       0\n")
    monkeypatch.setattr(available_memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(available_memory, "_CONTAINER", tmp_path)
    assert available_memory.available_memory() == 1_024_000
    for text, expected in (("max\n", 1_024_000), ("500000\n", 500_000), ("5000000\n", 1_024_000)):
        (tmp_path / "memory.max").write_text(text)
        assert available_memory.available_memory() == expected
    (tmp_path / "memory.max").write_text("500000\n")
    # what is held counts, but for what the kernel keeps of files
    (tmp_path / "memory.current").write_text("450000\n")
    assert available_memory.available_memory() == 50_000
    (tmp_path / "memory.stat").write_text("anon 100000\nactive_file 200000\ninactive_file 50000\nfile 300000\n")
    assert available_memory.available_memory() == 300_000
    (tmp_path / "memory.current").write_text("900000\n")
    assert available_memory.available_memory() == 0
    monkeypatch.setattr(available_memory, "_MEMINFO", tmp_path / "missing")
    assert available_memory.available_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
