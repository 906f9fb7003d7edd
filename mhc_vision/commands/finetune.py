"""`mhc-vision finetune`: from a pretrained ViT to another dataset."""

from collections.abc import Sequence

from mhc_vision.commands.train import run_cli
from mhc_vision.finetuning.cli import FinetuneCLI


def run(words: Sequence[str]) -> None:
    """Runs `[fit | validate | test] [options]`; `fit` may be left out. See `mhc_vision.commands.train.run`.

    Raises:
        SystemExit: With status 2 for bad input, 130 or 143 where Ctrl-C or SIGTERM stopped the training.
    """
    run_cli(FinetuneCLI, words)
