import socket

import pytest
from lightning.pytorch.utilities import rank_zero_only

from mhc_vision.command_line.messages import fail


@pytest.mark.parametrize(
    ("rank", "local_rank", "said"),
    [
        (0, "0", "mhc-vision: error: no data\n"),
        (3, "3", ""),
        # alone with its trouble on another machine
        (8, "0", f"mhc-vision: process 8 on {socket.gethostname()}: error: no data\n"),
    ],
)
def test_one_process_a_machine_speaks(monkeypatch, capsys, rank, local_rank, said):
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as stopped:
        fail("error: no data", status=2)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == said
