"""Packed data at a URL: files come to a folder on the local disk when they are first needed."""

import hashlib
import os
import shutil
from pathlib import Path

from mhc_vision.data.skip_broken import StorageError

URL_PREFIXES = ("s3://", "gs://", "r2://", "azure://", "hf://", "local:")


def is_url(root: str) -> bool:
    """Whether litdata downloads it."""
    return root.startswith(URL_PREFIXES)


class RemoteFolder:
    """The local copy of a folder at a URL; processes of one machine share it.

    Args:
        url: Of the folder; the prefix tells litdata how to download.
        cache: Folder that holds the copies of all URLs.

    Raises:
        ImportError: If litdata is missing.
    """

    def __init__(self, url: str, cache: Path) -> None:
        try:
            import litdata.streaming.downloader  # noqa: F401
        except ImportError as error:
            raise ImportError(f"{url} needs litdata: pip install 'mhc_vision[litdata]'") from error
        self.url = url.rstrip("/")
        self.local = cache / hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()

    def fetch(self, name: str) -> Path:
        """The local path of a file, downloaded if it is not there.

        Raises:
            ImportError: If the package for this kind of URL is missing.
            StorageError: A ValueError, if there is no such file, no way to it or no space for it.
        """
        path = self.local / name
        if path.exists():
            return path
        from filelock import FileLock
        from litdata.streaming.downloader import get_downloader

        self._make_folder(path.parent)
        # no whole file until it is renamed: not every version of litdata downloads beside its place
        part = path.with_name(f".{path.name}.part")
        # litdata's own lock makes the others go on without the file; here they wait for it
        with FileLock(path.with_name(f".{path.name}.wait")):
            if not path.exists():
                part.unlink(missing_ok=True)
                try:
                    downloader = get_downloader(self.url, str(self.local), [])
                    downloader.download_file(f"{self.url}/{name}", str(part))
                    # some of litdata's downloaders come back without the file and without an error
                    os.replace(part, path)
                except ImportError:
                    raise
                # the errors of botocore, google.cloud, azure and huggingface_hub, of which each URL needs one package,
                # have no base in common but this
                except Exception as error:
                    raise StorageError(f"root: {self.url}/{name} cannot be fetched: {error}") from error
        return path

    def check_space(self, files: dict[str, int]) -> None:
        """Refuse what would not fit on the disk.

        Args:
            files: Bytes of each file that will be needed.

        Raises:
            ValueError: If the missing ones are larger than the free space.
        """
        needed = sum(size for name, size in files.items() if not (self.local / name).exists())
        self._make_folder(self.local)
        free = shutil.disk_usage(self.local).free
        if needed > free:
            raise ValueError(
                f"cache: {self.url} needs {needed / 2**30:.1f} GiB more in {self.local}, of which "
                f"{free / 2**30:.1f} are free; name a folder on a larger disk"
            )

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cache: {folder} cannot be made: {error.strerror}") from error


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/mhc_vision`, by default `~/.cache/mhc_vision`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mhc_vision"
