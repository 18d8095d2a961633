"""Down from and up to the Hub, with the network played by a function."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from formats.models import lean_tokenizer, same_weights
from smalti.errors import ModelError, OutputError
from smalti.formats import hub, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", lean_tokenizer(), None)
    return tmp_path / "m"


def refused(kind: type[Exception]) -> Exception:
    """An error of the Hub, made without the answer of a server that it wants to keep."""
    error = kind.__new__(kind)
    error.args = ("401 Client Error: no\nmore lines",)
    return error


def test_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    root = hub.pull("me/mosaic", revision="v1", cache_dir="/somewhere", local_files_only=True)
    assert same_weights(load_model(root).tokenizer, lean_tokenizer())
    assert (asked["repository"], asked["revision"], asked["cache_dir"]) == ("me/mosaic", "v1", "/somewhere")
    assert asked["local_files_only"] is True
    assert not any("*" in name or name.endswith((".py", ".bin", ".ckpt")) for name in asked["allow_patterns"])


def test_what_came_down_must_be_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model_index.json").unlink()
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        hub.pull("me/other")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(GatedRepoError), "me/mosaic is gated"),
        (refused(RevisionNotFoundError), "has no revision v9"),
        (refused(RepositoryNotFoundError), "is not a repository on the Hub that you can read"),
        (HFValidationError("no"), "is not a repository on the Hub"),
        (LocalEntryNotFoundError("no"), "is not in the local cache: fetch it when the network is there"),
        (ConnectionError("no route\nto host"), "cannot be downloaded: no route$"),
        (refused(HfHubHTTPError), "cannot be downloaded: 401 Client Error: no$"),
        (RuntimeError("Name or service not known"), "cannot be downloaded: Name or service not known$"),
    ],
)
def test_what_can_go_wrong_on_the_way_down(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        hub.pull("me/mosaic", revision="v9")


def test_nothing_is_fetched_when_only_local_files_may_be_used(tmp_path: Path) -> None:
    """The Hub's own code, with an empty cache: no network is needed to find that out."""
    with pytest.raises(ModelError, match="is not in the local cache: fetch it with smalti models pull me/mosaic"):
        hub.pull("me/mosaic", cache_dir=tmp_path, local_files_only=True)


class Api:
    """Takes an upload down in a notebook."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, list[tuple[str, dict[str, Any]]]()

    def create_repo(self, repository: str, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append((repository, options))

    def upload_folder(self, **options: Any) -> Any:
        self.calls.append((options.pop("repo_id"), options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    assert hub.push(folder, "me/mosaic", private=True) == "https://hub/commit/1"
    assert api.calls[0] == ("me/mosaic", {"private": True, "exist_ok": True})
    assert api.calls[1][1]["folder_path"] == folder
    assert set(api.calls[1][1]["allow_patterns"]) >= {"model_index.json", "README.md", "vqgan/model.safetensors"}


def test_a_damaged_folder_is_not_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    shutil.rmtree(folder / "vqgan")
    with pytest.raises(ModelError, match="is missing"):
        hub.push(folder, "me/mosaic")
    assert api.calls == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("no"), "log in with hf auth login"),
        (refused(RepositoryNotFoundError), "it does not exist, or is not yours to write"),
        (refused(HfHubHTTPError), "401 Client Error: no$"),
        (RuntimeError("Name or service not known"), "cannot write to me/mosaic: Name or service not known$"),
    ],
)
def test_what_can_go_wrong_on_the_way_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: Api(error))
    with pytest.raises(OutputError, match=message):
        hub.push(folder, "me/mosaic")
