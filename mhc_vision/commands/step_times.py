"""Measures optimiser steps for `mhc-vision compare`, in a process of its own; no command for people.

    python -m mhc_vision.commands.step_times JSON

`JSON` has `command` (train or finetune), `baseline` (a name), `runs` (by name, the words of each run after the
command), `seconds` (see `measure_steps`) and `out`, the file that the results go to.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.command_line.messages import fail
from mhc_vision.comparison.plan.equal_time import StepTime
from mhc_vision.version import versions


def measure(command: str, baseline: str, runs: dict[str, list[str]], seconds: float) -> dict[str, Any]:
    """A step of each run beside one of the baseline.

    Returns:
        `device`, `threads`, `versions`, and `arms`: of each run but the baseline its `StepTime` as a mapping.

    Raises:
        ValueError: A run is a probe, which takes no steps, or cannot be measured.
    """
    import torch

    from mhc_vision.finetuning.cli import finetune_cli
    from mhc_vision.training.cli import TrainCLI
    from mhc_vision.training.step_times import QUIET, OptimiserStep, measure_steps

    steps = {}
    with tempfile.TemporaryDirectory() as nowhere:
        for name, words in runs.items():
            print(f"building {name}", flush=True)
            kind = finetune_cli(words) if command == "finetune" else TrainCLI
            cli = kind([*words, *QUIET, "--trainer.default_root_dir", nowhere], run=False)
            if getattr(cli.model, "is_probe", False):
                raise ValueError(
                    f"equal_time: got the arm {name} with a probe, expected a training; a probe has no steps"
                )
            steps[name] = OptimiserStep(cli)
    measured = measure_steps(steps, baseline, seconds=seconds)
    base, seconds_of_base = steps[baseline], measured[baseline].seconds
    times = {
        name: StepTime(
            ratio=taken.ratio,
            seconds=taken.seconds,
            baseline_seconds=seconds_of_base,
            rounds=taken.rounds,
            baseline_steps=base.steps,
            baseline_validations=base.validations,
            accumulated=base.accumulated,
        )
        for name, taken in measured.items()
        if name != baseline
    }
    for name, time in times.items():
        print(
            f"{name}: {time.ratio:.3f} times the step of {baseline} ({1e3 * time.baseline_seconds:.1f} ms)", flush=True
        )
    return {
        "device": base.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "arms": {name: asdict(time) for name, time in times.items()},
    }


def main(words: Sequence[str]) -> None:
    """Measures what the first word describes."""
    task = json.loads(words[0])
    out = Path(task.pop("out"))
    try:
        replace_text(out, json_text(measure(**task), indent=2) + "\n")
    except ValueError as error:
        fail(f"error: {error}", status=2)


if __name__ == "__main__":
    main(sys.argv[1:])
