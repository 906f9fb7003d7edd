import re
from types import SimpleNamespace

import pytest

from mhc_vision.cli import main
from mhc_vision.training.callbacks.validation_lines import ValidationLines, figures_line

LINE = re.compile(r"epoch (\d)/(\d): val (\d+\.\d\d) %, loss \d+\.\d+, (.+); \d+ s(, \d+ s left)?")


def test_a_file_has_a_line_after_each_validation(train, capsys):
    train("--trainer.max_epochs", "2", connection="mhc")
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert re.fullmatch(r"training test_vit, mhc with 4 streams: [\d,]+ parameters; cpu, precision 32-true", lines[0])
    first, second = (LINE.fullmatch(line) for line in lines[1:3])
    assert first.groups()[:2] == ("1", "2")
    assert second.groups()[:2] == ("2", "2")
    assert first[4] == "the best so far"
    assert first[5]
    better = float(second[3]) > float(first[3])
    assert second[4] == ("the best so far" if better else f"best {first[3]} % in epoch 1")
    assert second[5] is None
    assert len(lines) == 5
    assert lines[3].startswith("validation loss with the maps set back to their start: ")
    assert lines[4].startswith("report: ")
    assert "\r" not in printed.out + printed.err
    assert printed.err == ""


def test_a_resumed_run_knows_the_best_of_before(train, capsys, monkeypatch):
    train()
    (first,) = LINE.findall(capsys.readouterr().out)
    # nothing gets better
    monkeypatch.setattr("mhc_vision.training.module.ClassificationModule.configure_gradient_clipping", _no_gradients)
    train("--ckpt_path", "last", "--trainer.max_epochs", "2")
    (second,) = LINE.findall(capsys.readouterr().out)
    assert second[:2] == ("2", "2")
    assert second[3] == f"best {first[2]} % in epoch 1"


def _no_gradients(module, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
    for group in optimizer.param_groups:
        group["lr"] = 0.0


def test_validations_within_an_epoch_name_their_step(train, capsys):
    train("--trainer.val_check_interval", "2")
    assert "epoch 1/1, step 2: val " in capsys.readouterr().out


@pytest.mark.parametrize(("subcommand", "name"), [("validate", "validation"), ("test", "test")])
def test_an_evaluation_is_one_line(train, capsys, subcommand, name):
    limits = ("--trainer.limit_test_batches", "2") if subcommand == "test" else ()
    train(*limits, subcommand=subcommand)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{name}: top1 \d+\.\d\d %, top5 \d+\.\d\d %, loss \d+\.\d+; \d+ s", line)


def test_the_other_processes_say_nothing(capsys):
    trainer = SimpleNamespace(is_global_zero=False, callback_metrics={"test/top1": 0.5})
    ValidationLines().on_test_end(trainer, None)
    trainer.is_global_zero = True
    ValidationLines().on_test_end(trainer, None)
    assert capsys.readouterr().out == "test: top1 50.00 %; 0 s\n"


def test_a_validation_whose_loss_is_not_finite_is_never_the_best():
    lines = ValidationLines()
    assert lines._compare(0.9, float("nan"), "epoch 1") == "which does not count: the loss is not finite"
    assert lines._compare(0.5, 1.0, "epoch 2") == "the best so far"
    assert lines._compare(0.9, float("inf"), "epoch 3") == "best 50.00 % in epoch 2"
    # as for best.ckpt: the first of equals
    assert lines._compare(0.5, 0.5, "epoch 4") == "best 50.00 % in epoch 2"


def test_the_mean_per_class_is_among_the_figures():
    metrics = {"val/top1": 0.25, "val/mean_per_class": 0.125, "val/loss": 1.5, "test/top1": 1.0}
    assert figures_line("validation", "val", metrics, 3.2) == (
        "validation: top1 25.00 %, mean per class 12.50 %, loss 1.500; 3 s"
    )


def test_a_probe_says_what_it_reached(train, capsys, tmp_path):
    run_dir = train()
    capsys.readouterr()
    main(
        [
            *("finetune", "--config", "finetune/digits", "--config", "finetune/methods/knn"),
            *("--model.name", str(run_dir / "checkpoints" / "last.ckpt"), "--trainer.limit_predict_batches", "2"),
            *("--trainer.default_root_dir", str(tmp_path / "knn")),
        ]
    )
    printed = capsys.readouterr()
    assert re.search(r"^validation: top1 \d+\.\d\d %, top5 \d+\.\d\d %; \d+ s$", printed.out, re.MULTILINE)
    assert printed.err == ""
