"""Where webdataset may read shards from: it runs commands for most URLs, and whatever follows `pipe:`."""

from collections.abc import Iterable
from urllib.parse import urlparse

# webdataset reads a path itself, and a web address with curl, which gets it as one argument, without a shell
_PATHS = ("", "file")
_WEB = ("http", "https")


def check_locations(argument: str, locations: Iterable[str], allow_commands: bool) -> None:
    """Raise ValueError for a location that webdataset would run a command for.

    Paths and addresses of the web are read always: for these, `curl` is started with the address as one argument. All
    else (`pipe:` and a shell command, but also `gs:`, `hf:`, `ais:`, `sftp:`, `scp:`, ...) needs `allow_commands`.

    Args:
        argument: What an error begins with.
        locations: As webdataset gets them.
        allow_commands: Whether the user has asked for commands.
    """
    for location in locations:
        if not allow_commands and _scheme(location) not in (*_PATHS, *_WEB):
            raise ValueError(
                f"{argument}: got {location!r}, expected a path or an address of the web: webdataset runs a command "
                f"for {_scheme(location)}:; if it is yours, set data.allow_commands=true"
            )


def is_local(location: str) -> bool:
    """Whether webdataset would read a text as a path of this machine."""
    return _scheme(location) == ""


def _scheme(location: str) -> str:
    """As webdataset sees it."""
    try:
        return urlparse(location).scheme
    except ValueError:
        # an address that is none, such as a bracket that stays open
        return location.partition(":")[0]
