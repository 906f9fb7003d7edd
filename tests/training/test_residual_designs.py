"""Other residual designs under the command line of every run."""

import json

import pytest

from mhc_vision.models.designs import DESIGNS

# after which the connections are looked at for the first time
TEN_STEPS = ("--trainer.limit_train_batches", "10")


@pytest.mark.parametrize("design", DESIGNS)
def test_a_run_of_each_design(train, design):
    run_dir = train(*TEN_STEPS, connection=design)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["connection"], summary["steps"]) == (design, 10)
    assert summary["num_streams"] == {"resi_dual": 2, "alt_up": 4}.get(design, 1)
    # in the one block of the model: K² + K; C K + K outputs + outputs with K = 4 outputs; and two readers
    added = {"alt_up": 20, "mudd": 64 * 8 + 8 * 2 + 2, "attn_res": 2 * 2 * 64}
    assert summary["params"]["connections"] == added.get(design, 0)
    streams = {"resi_dual": " with 2 streams", "alt_up": " with 4 streams"}.get(design, "")
    assert f"test_vit, {design}{streams}\n" in (run_dir / "report.md").read_text()
    log = (run_dir / "metrics.jsonl").read_text()
    assert ("travel/post" in log) == (design == "alt_up")


def test_a_map_that_does_not_learn_does_not_travel(train):
    run_dir = train("--model.model_args.learn_post", "false", *TEN_STEPS, connection="dhc")
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    travels = [record for record in records if "travel/post" in record]
    assert travels
    assert all(record["travel/post"] == 0.0 for record in travels)
    summary = json.loads((run_dir / "summary.json").read_text())
    # two branches: |norm| + d(n + 1) + n(n + 1) + 1
    assert summary["params"]["connections"] == 2 * (2 * 64 + 64 * 5 + 4 * 5 + 1)


def test_pretrained_weights_are_for_models_of_their_function(train, capsys):
    with pytest.raises(SystemExit) as stopped:
        train("--model.pretrained", "true", connection="resi_dual")
    assert stopped.value.code == 2
    assert "pretrained: got True, expected False; resi_dual is another function" in capsys.readouterr().err
