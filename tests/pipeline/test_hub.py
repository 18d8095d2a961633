"""A pipeline up to the Hub and down again, with the network played by a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.tiny import tiny_pipeline
from smalti.errors import ModelError, OutputError
from smalti.formats import hub, tokenizer_identity
from smalti.pipeline.pipeline import Pipeline


class FakeHub:
    """Keeps what is uploaded in a folder per repository, and answers as the Hub's client does."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, list[dict[str, Any]]()

    def create_repo(self, repository: str, **options: Any) -> None:
        (self.root / repository).mkdir(parents=True, exist_ok=True)
        self.calls.append({"create": repository, **options})

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> Any:
        for name in allow_patterns:
            (self.root / repo_id / name).parent.mkdir(exist_ok=True)
            shutil.copy(folder_path / name, self.root / repo_id / name)
        self.calls.append(options)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def download(self, repository: str, **options: Any) -> str:
        self.calls.append({"download": repository, **options})
        return str(self.root / repository)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(hub, "snapshot_download", fake.download)
    return fake


def test_up_and_down_again(fake: FakeHub, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    address = pipe.push_to_hub("me/mosaic", private=True, message="first light")
    assert address == "https://hub/me/mosaic/commit/1"
    assert fake.calls[0] == {"create": "me/mosaic", "private": True, "exist_ok": True}
    assert fake.calls[1]["commit_message"] == "first light"
    card = (fake.root / "me" / "mosaic" / "README.md").read_text("utf-8")
    assert 'Pipeline.from_pretrained("me/mosaic")' in card

    again = Pipeline.from_pretrained("me/mosaic", revision="v1", cache_dir=tmp_path, local_files_only=True)
    asked = fake.calls[2]
    assert (asked["revision"], asked["cache_dir"], asked["local_files_only"]) == ("v1", tmp_path, True)
    assert again.name == "me/mosaic"
    assert again.identity == tokenizer_identity(pipe.tokenizer)
    assert again.sampler == pipe.sampler
    assert torch.equal(again.generate(seed=3).codes, pipe.generate(seed=3).codes)


def test_refusals_are_one_line(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise RuntimeError("Name or service not known\n(retried 5 times)")

    monkeypatch.setattr(fake, "create_repo", unreachable)
    with pytest.raises(OutputError, match=r"^cannot write to me/mosaic: Name or service not known$"):
        tiny_pipeline().push_to_hub("me/mosaic")
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"^me/mosaic cannot be downloaded: Name or service not known$"):
        Pipeline.from_pretrained("me/mosaic")
