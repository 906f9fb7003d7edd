"""What the commands that run a model on images ask for: the model, and how to run it."""

import argparse

from mhc_vision.inference.logits import InferenceOptions
from mhc_vision.layers import CONNECTIONS

MODEL = (
    "a checkpoint of mhc-vision train, a directory of mhc-vision export, or a timm model (NAME[.TAG], hf-hub:..., "
    "local-dir:...), plain or hyper-connected"
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `ModelOptions`."""
    add = parser.add_argument
    add("--connection", choices=CONNECTIONS, help="of a plain timm name")
    add("--weights", choices=("default", "raw"), default="default", help="raw: not the average of EMA")
    add("--img-size", type=int, metavar="PIXELS", help="in place of the model's own")
    add("--crop-pct", type=float, metavar="PART", help="in place of the model's own")


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `InferenceOptions`."""
    add = parser.add_argument
    add("--batch-size", type=int, default=InferenceOptions.batch_size)
    add("--num-workers", type=int, default=InferenceOptions.num_workers, help="processes that load images")
    add("--device", default=InferenceOptions.device, help="auto (a GPU where there is one), cpu, cuda:1, ...")
    add("--precision", choices=("32", "bf16"), default=InferenceOptions.precision)
