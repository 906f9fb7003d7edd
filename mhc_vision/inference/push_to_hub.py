"""Push an exported directory to the Hugging Face Hub, where `timm.create_model("hf-hub:OWNER/NAME")` finds it."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, metadata_load, metadata_save
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from mhc_vision.inference.hub_metadata import OF_WEIGHTS
from mhc_vision.progress import note
from mhc_vision.stored.weights import short_reason
from mhc_vision.version import __version__

CARD = "README.md"


class HubUnreachable(Exception):
    """The Hub gave no answer, or one that says that it is at fault."""


def push_to_hub(directory: Path, repository: str, private: bool = False) -> str:
    """Uploads a directory in the layout of timm's `push_to_hf_hub`; a repository that is there gets a new commit.

    What the owner wrote into the metadata of a card that is there, such as a licence, is kept where the new card says
    nothing of it, and is written into the card in `directory`, too.

    Args:
        directory: What `export_checkpoint` wrote.
        repository: `OWNER/NAME`.
        private: Whether a new repository is private; otherwise it is what the owner's settings say, mostly public.

    Returns:
        Where it is now and whether it is new, in words.

    Raises:
        ValueError: The Hub refuses, or the repository is there and public and `private` was asked for.
        HubUnreachable: The Hub cannot be reached or fails.
    """
    api = HfApi(library_name="mhc_vision", library_version=__version__)
    again = shlex.join(["hf", "upload", repository, str(directory), ".", *(["--private"] if private else [])])
    kept_here = f"The export stays in {directory}; push it later with `{again}`"
    with _errors_in_words(f"push: {repository}", kept_here):
        existing = _existing(api, repository)
    if existing is not None and private and not existing.private:
        raise ValueError(
            f"private: got it for {repository}, which is there already and public; make it private in its settings, or "
            f"push to another name. {kept_here}"
        )
    with _errors_in_words(f"push: {repository}", kept_here):
        if existing is None:
            api.create_repo(repository, private=private or None)
        else:
            _keep_metadata(api, repository, directory / CARD)
        note(f"uploading {directory} to {repository}")
        message = "Add model" if existing is None else "Update model"
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    return f"{api.endpoint}/{repository} ({'new' if existing is None else 'updated: it was there already'})"


@contextmanager
def _errors_in_words(what: str, advice: str) -> Iterator[None]:
    """Around calls of the Hub: ValueError where it refuses, HubUnreachable where it cannot answer."""
    try:
        yield
    except HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        refused = status is not None and 400 <= status < 500
        raise (ValueError if refused else HubUnreachable)(f"{what}: {_reason(error, status)}. {advice}") from error
    # those of the network below the Hub's client have no class in common, and differ between its releases
    except Exception as error:
        raise HubUnreachable(f"{what}: the Hub gives no usable answer: {short_reason(error)}. {advice}") from error


def _existing(api: HfApi, repository: str) -> ModelInfo | None:
    try:
        return api.model_info(repository)
    # the Hub says so of what the token may not see, too; creating it is refused then
    except RepositoryNotFoundError:
        return None


def _keep_metadata(api: HfApi, repository: str, card: Path) -> None:
    """Add what the card of a repository says beyond the new one's metadata."""
    if not api.file_exists(repository, CARD):
        return
    with tempfile.TemporaryDirectory() as folder:
        there = metadata_load(api.hf_hub_download(repository, CARD, local_dir=folder)) or {}
    ours = metadata_load(card) or {}
    # figures, examples and starts of other weights go with them
    kept = {name: value for name, value in there.items() if name not in {*ours, *OF_WEIGHTS}}
    metadata_save(card, {**ours, **kept})


def _reason(error: HfHubHTTPError, status: int | None) -> str:
    if status == 401:
        return "the Hub does not accept the token (401); log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return "the token may not write there (403); make one with write access to this owner's repositories"
    said = error.server_message or str(error).strip().splitlines()[0]
    return f"the Hub says: {said} ({status})"
