"""Model folders on the Hugging Face Hub: down (`pull`) and up (`push`). Only the files of a model folder travel."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from smalti.errors import ModelError, OutputError
from smalti.formats.folder import CARD, CONFIG, INDEX, PRIOR, TOKENIZER, WEIGHTS, read_index, verify

FILES = [INDEX, CARD, *(f"{part}/{name}" for part in (TOKENIZER, PRIOR) for name in (CONFIG, WEIGHTS))]
"""What is fetched from a repository; anything else in it stays there."""


def pull(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a model in the Hub's cache, downloaded if needed and not `local_files_only`.

    Raises ModelError, in one line, for a repository or revision that does not exist or is not a smalti model, and
    when it is not in the cache and the network cannot be used.
    """
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=FILES,
        )
    except GatedRepoError:
        raise ModelError(f"{repository} is gated: accept its terms on the Hub and log in with hf auth login") from None
    except RevisionNotFoundError:
        raise ModelError(f"{repository} has no revision {revision}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"{repository} is not a repository on the Hub that you can read") from None
    except LocalEntryNotFoundError:
        how = f"with smalti models pull {repository}" if local_files_only else "when the network is there"
        raise ModelError(f"{repository} is not in the local cache: fetch it {how}") from None
    except Exception as error:  # see _line
        raise ModelError(f"{repository} cannot be downloaded: {_line(error)}") from None
    root = Path(folder)
    read_index(root)
    return root


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a smalti model",
) -> str:
    """Upload a verified model folder; returns the address. Raises ModelError if the folder is damaged, OutputError if
    the Hub refuses."""
    root = Path(folder)
    verify(root)
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=root,
            revision=revision,
            commit_message=message,
            allow_patterns=FILES,
        )
    except LocalTokenNotFoundError:
        raise OutputError(f"cannot write to {repository}: log in with hf auth login") from None
    except RepositoryNotFoundError:
        raise OutputError(f"cannot write to {repository}: it does not exist, or is not yours to write") from None
    except Exception as error:  # see _line
        raise OutputError(f"cannot write to {repository}: {_line(error)}") from None
    return str(commit.commit_url)


def _line(error: Exception) -> str:
    """What went wrong, in one line. Any exception: the Hub's client lets those of its HTTP library through, which is
    requests, httpx or httpx2 depending on its version, and whose errors share no base."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
