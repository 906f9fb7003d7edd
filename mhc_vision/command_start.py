"""How a command starts and ends at a terminal: Ctrl-C while Python still imports, and readers that have had enough."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# signal.SIGPIPE, which Windows lacks
_SIGPIPE = 13
_SCRIPTS = ("mhc-vision", "train_imagenet.py")


@contextmanager
def interrupted_in_words() -> Iterator[None]:
    """Around the imports of the package: Ctrl-C ends a command with a line; in other programs it is what it was."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_command():
            raise
        print("mhc-vision: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Around a command: `| head` that has read enough ends it without a traceback, with the status of SIGPIPE."""
    try:
        yield
    except BrokenPipeError:
        # what could not be written is forgotten: only something new tells standard output from another pipe
        if _flushes("\n"):
            raise
        _print_nowhere()
        sys.exit(128 + _SIGPIPE)
    except SystemExit:
        if not _flushes():
            _print_nowhere()
        raise
    if not _flushes():
        _print_nowhere()
        sys.exit(128 + _SIGPIPE)


def is_command() -> bool:
    """Whether Python was started for a command of this package, as a script or with `-m`."""
    program = sys.argv[0] if sys.argv else ""
    # the file of a module stands in sys.argv only when it has been found, which imports its package
    is_module = program == "-m" or program.startswith(os.path.dirname(__file__))
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if is_module and "-m" in sys.orig_argv else []
    name = os.path.basename(program).removesuffix(".exe")
    return name in _SCRIPTS or any(word.partition(".")[0] == "mhc_vision" for word in module)


def _flushes(text: str = "") -> bool:
    try:
        if sys.stdout is not None:
            print(text, end="", flush=True)
    except BrokenPipeError:
        return False
    return True


def _print_nowhere() -> None:
    """At its end Python flushes once more, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
