"""The parser of the commands that are not `train` or `finetune`."""

import argparse
import re
from typing import NoReturn

from mhc_vision.checks import nearest
from mhc_vision.training.messages import fail


class CommandParser(argparse.ArgumentParser):
    """argparse's, with one message for a mistake, names like a mistyped one, and no page of usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        hint = ""
        if match := re.match(r"unrecognized arguments: (-[^\s=]+)", message):
            hint = nearest(match[1], self._option_string_actions)
        elif match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message):
            hint = nearest(match[1], re.findall(r"[\w.-]+", match[2]))
        fail(f"error: {message}{hint}; {self.prog} --help says more", status=2)
