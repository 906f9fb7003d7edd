import json
import re

import pytest
import timm
import torch

from mhc_vision.cli import main


@pytest.mark.parametrize("connection", ["baseline", "mhc"])
def test_an_exported_run_is_loaded_by_timm(train, tmp_path, connection, capsys):
    run_dir = train("--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.9", connection=connection)
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    for weights, key in (("default", "state_dict"), ("raw", "current_model_state")):
        main(["export", str(checkpoint), str(tmp_path / weights), "--weights", weights])
        assert "exported: " in capsys.readouterr().out
        model = timm.create_model(f"local-dir:{tmp_path / weights}", pretrained=True)
        for name, value in model.state_dict().items():
            assert torch.equal(value, content[key][f"model.{name}"])
        assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
        assert list(model.pretrained_cfg["mean"]) == [0.5]
        # not the 160 x 160 of timm's weights of this architecture
        assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 8, 8)
    config = json.loads((tmp_path / "default" / "config.json").read_text())
    assert config["label_names"] == [str(digit) for digit in range(10)]
    card = (tmp_path / "default" / "README.md").read_text()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert re.search(rf"^\| val/top1 +\| +{summary['metrics']['val/top1']} \|$", card, re.MULTILINE)
    assert ("import mhc_vision" in card) == (connection == "mhc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["default", "raw", "run"]


def test_what_cannot_be_exported_is_named(train, tmp_path, capsys):
    checkpoint = train() / "checkpoints" / "last.ckpt"
    (tmp_path / "there").mkdir()
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    torch.save({"global_step": 1}, tmp_path / "other.ckpt")
    for words, message in (
        ([checkpoint, tmp_path / "there"], "is there already, expected a new one"),
        ([tmp_path / "broken.ckpt", tmp_path / "new"], "expected a checkpoint: it is cut short"),
        ([tmp_path / "other.ckpt", tmp_path / "new"], "was not made by mhc-vision train"),
        ([checkpoint, tmp_path / "new", "--weights", "raw"], "has no average beside them; expected 'default'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", *map(str, words)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_a_design_without_a_name_in_timm_is_refused(train, tmp_path, capsys):
    checkpoint = train(connection="post_norm") / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(checkpoint), str(tmp_path / "new")])
    assert stopped.value.code == 2
    assert "of the design 'post_norm', which timm has no name for" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
