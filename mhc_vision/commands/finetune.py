"""`mhc-vision finetune`: from a pretrained ViT to another dataset."""

from collections.abc import Sequence

from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.photos import check_photo_options, find_photos, split_words
from mhc_vision.commands.train import checked_words, run_cli

HELP = """usage: mhc-vision finetune PHOTOS --model NAME [--out DIR] [--OPTION VALUE ...]
       mhc-vision finetune [fit | validate | test] --config RECIPE [--config OVERLAY ...] [--OPTION VALUE ...]

Fine-tune or probe a pretrained vision transformer, plain or with connections. `fit` may be left out.

your own images
  PHOTOS                        PHOTOS/<class>/*: a share of each class is held out to validate on, always the same;
                                or PHOTOS/train/<class>/*, with or without such a val/ and test/
  --model NAME                  what to start from, as --model.name below
  --out DIR                     the run; default: runs/<name of the folder>
  the rest of the recipe follows from the number of images, and is said at the start; every option below, and every
  --config, counts for more. Photos are turned upright by their EXIF orientation (--data.exif_orientation false)

what to start from
  --model.name NAME             a timm model with its weights, a checkpoint, an exported directory, hf-hub:OWNER/NAME
  --config connections/mhc      give a plain model connections: the same function at step 0

on what
  --config finetune/cifar100    a dataset of torchvision: mhc-vision list datasets
  --data.root DATA              where the dataset is, or is fetched to

how
  --config finetune/methods/full   all weights; or lora, connections, linear, knn
  --model.lr RATE               peak learning rate
  --trainer.max_epochs N        length
  --data.batch_size N           images of a step on each GPU

where to
  --trainer.default_root_dir DIR   the run: checkpoints, metrics.jsonl, summary.json, report.html
  --ckpt_path last                 go on where the run was stopped
  --overwrite true                 replace the run that is there

examples
  mhc-vision finetune PHOTOS --model vit_small_patch14_reg4_dinov2_mhc
  mhc-vision finetune --config finetune/cifar100 --data.root DATA --trainer.default_root_dir runs/cifar100
  mhc-vision finetune --config finetune/cifar100 --config finetune/methods/linear --data.root DATA

all options: mhc-vision finetune fit --help
a recipe's:  mhc-vision show finetune/cifar100"""


def run(words: Sequence[str]) -> None:
    """Runs `PHOTOS --model NAME [options]` or `[fit | validate | test] [options]`; `fit` may be left out.

    See `mhc_vision.commands.train.run`.

    Raises:
        SystemExit: With status 2 for bad input, 1 for a run that has diverged, 130 or 143 where Ctrl-C or SIGTERM
            stopped the training.
    """
    words = full_words(words)
    from mhc_vision.finetuning.cli import finetune_cli

    run_cli(finetune_cli(words), words)


def full_words(words: Sequence[str]) -> list[str]:
    """The words of `FinetuneCLI`: of a folder of photos, with all that its recipe sets; checked as far as is quick.

    Raises:
        SystemExit: With status 0 after the help, 2 for a mistake.
    """
    try:
        folder, options = split_words(words)
        if folder is None:
            return checked_words("finetune", options, HELP)
        if {"-h", "--help"} & set(options):
            return checked_words("finetune", ["--help"], HELP)
        photos, given = find_photos(folder), check_photo_options(options)
        from mhc_vision.finetuning.photos import photo_words

        return photo_words(photos, options, given)
    except ValueError as error:
        fail(f"error: {error}", status=2)
