"""`mhc-vision pack`: from an image folder to a few large files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.data.pack import pack_folder
from mhc_vision.training.messages import fail


def run(words: Sequence[str]) -> None:
    """Runs `SOURCE DESTINATION [--check]`.

    Raises:
        SystemExit: With status 2 for bad input, 1 where it cannot be written, 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(
        prog="mhc-vision pack", description="Pack an image folder into chunks that PackedDataModule and litdata read."
    )
    parser.add_argument("source", type=Path, help="a folder with train/<class>/ and val/<class>/")
    parser.add_argument("destination", type=Path, help="a new folder")
    parser.add_argument("--check", action="store_true", help="decode each image, to find broken ones")
    arguments = parser.parse_args(words)
    try:
        packed = pack_folder(arguments.source, arguments.destination, arguments.check)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)
    except OSError as error:
        fail(f"error: {arguments.destination} cannot be written: {error}", status=1)
    except KeyboardInterrupt:
        fail("interrupted", status=130)
    counts = ", ".join(f"{count} images in {split}" for split, count in packed["num_images"].items())
    print(f"packed: {arguments.destination} ({counts}, {len(packed['class_names'])} classes)")
