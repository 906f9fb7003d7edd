"""The last words of a command that cannot go on."""

import sys
from typing import NoReturn

from lightning.pytorch.utilities import rank_zero_only


def fail(message: str, *, status: int) -> NoReturn:
    """Ends the program with a message on stderr, printed by the first process only."""
    rank_zero_only(print)(f"mhc-vision: {message}", file=sys.stderr)
    sys.exit(status)
