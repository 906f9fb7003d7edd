"""Makes one file of a sharded checkpoint: `python -m mhc_vision.training.consolidate DIRECTORY FILE`.

Everything that loads a checkpoint takes the file, and every strategy goes on from it. Weights and optimiser state are
in memory meanwhile: 12 bytes per parameter.
"""

import argparse
from pathlib import Path

from mhc_vision.atomic_files import check_writable
from mhc_vision.command_line.messages import fail
from mhc_vision.stored.checkpoint_files import damage, read_checkpoint
from mhc_vision.stored.sharded_checkpoints import gather_shards
from mhc_vision.training.checkpoint import AtomicCheckpointIO


def consolidate(checkpoint: Path, file: Path) -> None:
    """Writes a sharded checkpoint to a file.

    Args:
        checkpoint: The directory.
        file: To be written; there must be none.

    Raises:
        ValueError: There is no whole sharded checkpoint, or the file cannot be written.
    """
    reason = damage(checkpoint) if checkpoint.is_dir() else "there is no such directory"
    if reason:
        raise ValueError(f"checkpoint: got {checkpoint}, expected a sharded checkpoint: {reason}")
    if file.exists():
        raise ValueError(f"file: got {file}, which is there already, expected a new file")
    check_writable(file, "file")
    read_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(gather_shards(checkpoint), file)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make one file of a sharded checkpoint.")
    parser.add_argument("checkpoint", type=Path, help="the directory, as `save_distributed_checkpoint: true` makes it")
    parser.add_argument("file", type=Path, help="to be written")
    arguments = parser.parse_args()
    try:
        consolidate(arguments.checkpoint, arguments.file)
    except (ValueError, OSError) as error:
        fail(f"error: {error}", status=2)


if __name__ == "__main__":
    _main()
