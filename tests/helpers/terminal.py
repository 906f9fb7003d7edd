"""A terminal of a given width in place of stderr."""

import fcntl
import os
import pty
import struct
import sys
import termios
import threading


class Terminal:
    """Takes the place of stderr, in a test, until `written`: pytest captures anew after its fixtures.

    Args:
        monkeypatch: pytest's.
        columns: Its width.
    """

    def __init__(self, monkeypatch, columns):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._chunks = []
        # what nobody reads would stop the writer
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._file = open(slave, "w", encoding="utf-8", buffering=1)  # noqa: SIM115  closed in `written`
        monkeypatch.setattr(sys, "stderr", self._file)

    def written(self):
        """All that was written; the terminal is closed."""
        self._file.close()
        self._reader.join(timeout=10)
        os.close(self._master)
        return b"".join(self._chunks).decode()

    def _read(self):
        while True:
            try:
                chunk = os.read(self._master, 4096)
            except OSError:
                # Linux says so when the other end is closed
                return
            if not chunk:
                return
            self._chunks.append(chunk)
