import pytest

from tests.helpers.terminal import Terminal


@pytest.mark.parametrize(
    ("columns", "parts"),
    [(80, ("epoch 1/1 ", " left, loss 2.", " images/s")), (40, ("1/1 ", "% 00:0", " loss 2.", " img/s"))],
)
def test_a_terminal_shows_a_line_that_fits_and_goes(train, capsys, monkeypatch, columns, parts):
    terminal = Terminal(monkeypatch, columns)
    monkeypatch.setattr("mhc_vision.training.callbacks.short_progress_bar._READ_S", 0.0)
    train("--trainer.enable_progress_bar", "true", "--trainer.log_every_n_steps", "1")
    written = terminal.written()
    # in its own line, which is empty at the end
    assert "\n" not in written
    assert "\x1b" not in written
    states = written.split("\r")
    assert all(len(state) < columns for state in states)
    assert states[-2].strip() == ""
    assert states[-1] == ""
    last = [state for state in states if state.startswith(parts[0])][-1]
    assert all(part in last for part in parts)
    assert any(state.startswith("checking validation") for state in states)
    assert any(state.startswith("validation ") for state in states)
    assert not any(word in written for word in ("v_num", "DataLoader", "train/loss", "it/s"))
    assert "epoch 1/1: val " in capsys.readouterr().out


def test_a_file_has_no_bar(train, capsys):
    train("--trainer.enable_progress_bar", "true")
    assert capsys.readouterr().err == ""
