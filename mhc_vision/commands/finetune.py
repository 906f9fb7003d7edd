"""`mhc-vision finetune`: from a pretrained ViT to another dataset."""

from collections.abc import Sequence

from mhc_vision.commands.train import checked_words, run_cli

HELP = """usage: mhc-vision finetune [fit | validate | test] --config RECIPE [--config OVERLAY ...] [--OPTION VALUE ...]

Fine-tune or probe a pretrained vision transformer, plain or with connections. `fit` may be left out.

what to start from
  --model.name NAME             a timm model with its weights, a checkpoint, an exported directory, hf-hub:OWNER/NAME
  --config connections/mhc      give a plain model connections: the same function at step 0

on what
  --config finetune/cifar100    a dataset of torchvision: mhc-vision list datasets
  --config finetune/folder      your own images: DATA/train/<class>/*, DATA/val/<class>/*
  --data.root DATA              where the dataset is, or is fetched to

how
  --config finetune/methods/full   all weights; or lora, connections, linear, knn
  --model.lr RATE               peak learning rate
  --trainer.max_epochs N        length
  --data.batch_size N           images of a step on each GPU

where to
  --trainer.default_root_dir DIR   the run: checkpoints, metrics.jsonl, summary.json, report.md
  --ckpt_path last                 go on where the run was stopped
  --overwrite true                 replace the run that is there

examples
  mhc-vision finetune --config finetune/cifar100 --data.root DATA --trainer.default_root_dir runs/cifar100
  mhc-vision finetune --config finetune/folder --model.name vit_base_patch14_dinov2_mhc --data.root PHOTOS
  mhc-vision finetune --config finetune/cifar100 --config finetune/methods/linear --data.root DATA

all options: mhc-vision finetune fit --help
a recipe's:  mhc-vision show finetune/cifar100"""


def run(words: Sequence[str]) -> None:
    """Runs `[fit | validate | test] [options]`; `fit` may be left out. See `mhc_vision.commands.train.run`.

    Raises:
        SystemExit: With status 2 for bad input, 130 or 143 where Ctrl-C or SIGTERM stopped the training.
    """
    words = checked_words("finetune", words, HELP)
    from mhc_vision.finetuning.cli import FinetuneCLI

    run_cli(FinetuneCLI, words)
