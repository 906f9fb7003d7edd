"""Train a plain ViT and its three hyper-connected forms on bundled handwritten digits: `python -m mhc_vision.demo`.

Runs on a CPU in a few minutes, from the same configuration files and through the same command line as any other run.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mhc_vision.atomic_files import replace_text
from mhc_vision.cli import main as command_line
from mhc_vision.command_line.recipes import recipe_folder
from mhc_vision.command_start import interrupted_in_words
from mhc_vision.report.markdown import markdown_table
from mhc_vision.run_directory import FIGURES, LOSS_FIGURE, METRICS_LOG, REPORT, SUMMARY
from mhc_vision.silenced import silenced

with interrupted_in_words():
    import torch
    from torch import nn

    from mhc_vision.report.curves import plot_loss_curves
    from mhc_vision.training.cli import TrainCLI

CONNECTIONS = ("baseline", "shc", "dhc", "mhc")
CONFIGS = recipe_folder()

_REPORT = """# Handwritten digits: plain residual and hyper-connections

{table}
![training loss](figures/loss.png)

Measured by `python -m mhc_vision.demo` on a CPU with `configs/digits.yaml`: one seed each and 360 test images, so a
difference of one or two percent says nothing. "extra" is what the connections add to the parameters. Step times were
taken with the models alternating: the median over {rounds} rounds of a training step's time to that of the baseline.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Trains the four models, writes `report.md` and `figures/loss.png`, and prints the table.

    Args:
        args: The words of the command line; `None` takes them from `sys.argv`.

    Raises:
        ValueError: If the output directory holds something that is not from an earlier demo.
    """
    parser = argparse.ArgumentParser(prog="python -m mhc_vision.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="directory to write; an earlier demo is replaced"
    )
    parser.add_argument("--max-steps", type=int, help="steps of each run, from 2 to an epoch's; for a quick look")
    options = parser.parse_args(args)
    # Lightning reads a limit of 1 as 100 %
    if options.max_steps is not None and options.max_steps < 2:
        parser.error(f"--max-steps: got {options.max_steps}, expected a whole number from 2")
    _clear(options.out)
    # operations this small gain nothing from a second thread, and lose much where the cores are busy
    torch.set_num_threads(1)

    for connection in CONNECTIONS:
        print(f"training {connection} ...", flush=True)
        command_line(_run_arguments(connection, options.out, options.max_steps))
    rounds = 40 if options.max_steps is None else 2
    print("measuring step times ...", flush=True)
    with silenced():
        untrained = {connection: _untrained(connection, options.out) for connection in CONNECTIONS}
    ratios = step_time_ratios(untrained, rounds)
    table = markdown_table([_table_row(connection, options.out, ratios[connection]) for connection in CONNECTIONS])
    figures = plot_loss_curves(
        {connection: options.out / connection / METRICS_LOG for connection in CONNECTIONS},
        options.out / LOSS_FIGURE,
        window=10,
    )
    report = options.out / REPORT
    replace_text(report, _REPORT.format(table=table, rounds=rounds))
    print(f"\n{table}\nreport: {report}\nfigure: {figures[0]}")


def step_time_ratios(models: Mapping[str, nn.Module], rounds: int, batch_size: int = 32) -> dict[str, float]:
    """Time of a training step relative to the first model's, on random 8x8 images.

    In each round every model takes one step, so what else the machine does falls on all of them. The ratios are medians
    over the rounds; two rounds before are not counted.
    """
    images, labels = torch.randn(batch_size, 1, 8, 8), torch.randint(10, (batch_size,))
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - start)
    baseline = next(iter(seconds.values()))[2:]
    return {
        name: statistics.median(mine / base for mine, base in zip(times[2:], baseline, strict=True))
        for name, times in seconds.items()
    }


def _run_arguments(connection: str, out: Path, max_steps: int | None) -> list[str]:
    arguments = [
        *("--config", str(CONFIGS / "digits.yaml")),
        *("--config", str(CONFIGS / "connections" / f"{connection}.yaml")),
        *("--trainer.default_root_dir", str(out / connection)),
    ]
    if max_steps is not None:
        arguments += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(max_steps)]
        arguments += ["--model.warmup_epochs", "0"]
    return arguments


def _untrained(connection: str, out: Path) -> nn.Module:
    cli = TrainCLI(_run_arguments(connection, out, None), run=False)
    return cli.model.model


def _table_row(connection: str, out: Path, step_time_ratio: float) -> dict[str, str]:
    summary = json.loads((out / connection / SUMMARY).read_text(encoding="utf-8"))
    return {
        "connection": connection,
        # the digits have one held-out set, which serves as validation and test
        "test accuracy (%)": f"{100 * float(summary['metrics']['val/top1']):.1f}",
        "test loss": f"{float(summary['metrics']['val/loss']):.3f}",
        "parameters": f"{summary['params']['total']:,}",
        "extra (%)": f"{summary['params']['extra_percent']:.2f}",
        "step time (x baseline)": f"{step_time_ratio:.2f}",
    }


def _clear(out: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out: got {out}, a file, expected a directory")
    ours = {*CONNECTIONS, FIGURES, REPORT}
    if foreign := sorted(entry.name for entry in out.iterdir() if entry.name not in ours):
        raise ValueError(
            f"--out: got {out} with {foreign[:5]}, expected nothing but an earlier demo, which is replaced"
        )
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
