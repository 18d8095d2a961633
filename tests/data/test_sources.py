"""Every kind of store gives the same pictures, names, classes and refusals."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti.data import exists, load_pictures, open_source
from smalti.data.sources import open_picture
from smalti.data.sources.base import class_names
from smalti.errors import DataError, InputError


def picture(seed: int, size: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of these members, in this order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def same(path: Path, seeds: list[int]) -> None:
    source = open_source(path)
    assert len(source.names) == len(set(source.names)) == len(seeds)
    for index, seed in enumerate(seeds):
        assert open_picture(source, index).tobytes() == picture(seed).tobytes()


# --- folders and archives ---------------------------------------------------------------------------------------------


def test_folders_are_classes_when_all_pictures_lie_in_them() -> None:
    assert class_names(["cats/1.png", "cats/2.png", "dogs/a/3.png"]) == ["cats", "cats", "dogs"]
    assert class_names(["all/cats/1.png", "all/cats/2.png", "all/dogs/3.png"]) == ["cats", "cats", "dogs"]
    for none in ([], ["1.png", "2.png"], ["cats/1.png", "cats/2.png"], ["cats/1.png", "2.png"], ["a/1.png", "b/1.png"]):
        assert class_names(none) is None


def test_classes_follow_their_pictures(tmp_path: Path) -> None:
    for folder, seeds in (("dogs", (1, 2, 3)), ("cats", (4, 5))):
        (tmp_path / "p" / folder).mkdir(parents=True)
        for seed in seeds:
            picture(seed).save(tmp_path / "p" / folder / f"{seed}.png")
    (tmp_path / "p" / "dogs" / "2.png").write_bytes(b"broken")
    loaded = load_pictures(tmp_path / "p", (8, 8), tmp_path / "cache", cuts=2)
    assert loaded.classes == ("cats", "dogs")
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("part", ["", "images1024x1024", "thumbnails128x128"])
def test_ffhq(part: str, tmp_path: Path) -> None:
    for kind, first in (("images1024x1024", 0), ("thumbnails128x128", 10), ("in-the-wild-images", 20)):
        for number in (0, 1, 1000):
            place = tmp_path / "ffhq" / kind / f"{number // 1000 * 1000:05d}"
            place.mkdir(parents=True, exist_ok=True)
            picture(first + number).save(place / f"{number:05d}.png")
    (tmp_path / "ffhq" / "LICENSE.txt").write_text("")
    first = 10 if part.startswith("thumb") else 0
    same(tmp_path / "ffhq" / part, [first, first + 1, first + 1000])
    assert open_source(tmp_path / "ffhq" / part).labels is None


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(1000))
    data = bytearray((tmp_path / "p.zip").read_bytes())
    data[38:42] = b"\xff" * 4
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        open_source(tmp_path / "p.zip").stored(0)


# --- tar shards -------------------------------------------------------------------------------------------------------


def test_shards_hold_samples(tmp_path: Path) -> None:
    samples = {}
    for seed in (1, 2):
        # the picture of a sample is not its mask, whatever comes first
        samples |= {f"{seed}.mask.png": png(9), f"{seed}.png": png(seed), f"{seed}.cls": b"%d\n" % (seed % 2)}
    pack(tmp_path / "a-000.tar", samples)
    pack(tmp_path / "a-001.tar", {"3.png": png(3), "3.cls": b"1", "3.json": b"{}", "._4.png": b""})
    same(tmp_path, [1, 2, 3])
    same(tmp_path / "a-{000..001}.tar", [1, 2, 3])
    source = open_source(tmp_path)
    assert list(source.names) == ["a-000.tar/1.png", "a-000.tar/2.png", "a-001.tar/3.png"]
    assert source.labels == ["1", "0", "1"]
    assert source.fingerprint() == open_source(tmp_path / "a-{000..001}.tar").fingerprint()
    before = source.fingerprint()
    pack(tmp_path / "a-001.tar", {"3.png": png(4)})
    assert open_source(tmp_path).fingerprint() != before


def test_a_tar_of_an_ordinary_folder(tmp_path: Path) -> None:
    names = ("cats/holiday.1.png", "cats/holiday.2.png", "dogs/1.png")
    path = pack(tmp_path / "p.tar", {name: png(seed) for seed, name in enumerate(names)})
    same(path, [0, 1, 2])
    assert open_source(path).labels == ["cats", "cats", "dogs"]


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "0.tar", {"a.png": png(1)})
    with pytest.raises(DataError, match=r"1\.tar \(of 2 shards, 1 are missing\)"):
        open_source(tmp_path / "{0..1}.tar")
    assert exists(tmp_path / "{0..1}.tar")
    assert not exists(tmp_path / "{1..2}.tar")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"0\.tar is not a readable tar file"):
        open_source(path)
    for name, says in (("a.tar.gz", "unpack it"), ("a.png", "one picture"), ("a.tar", "not a readable tar")):
        (tmp_path / name).write_bytes(b"junk" * 200)
        with pytest.raises(DataError, match=says):
            open_source(tmp_path / name)


# --- LSUN -------------------------------------------------------------------------------------------------------------


def test_half_of_an_lmdb_is_named(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for seed in range(20):
            transaction.put(b"%040x" % seed, png(seed))
    file = tmp_path / "data.mdb"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"data.mdb is incomplete: 9,000 of"):
        open_source(tmp_path)


def test_lsun(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "church_outdoor_val_lmdb"
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for seed in (1, 0, 2):
            transaction.put(b"%040x" % seed, png(seed) if seed != 2 else b"broken")
    first, second = open_source(folder), open_source(folder / "data.mdb")
    assert first.names == second.names == [f"{seed:040x}" for seed in range(3)]
    assert first.fingerprint() == second.fingerprint()
    said: list[str] = []
    loaded = load_pictures(folder, (12, 12), tmp_path / "cache", message=said.append)
    assert np.array_equal(loaded.batch(np.arange(2)), np.stack([np.asarray(picture(seed)) for seed in (0, 1)]))
    assert any("left out" in text and f"{2:040x}" in text for text in said)
    with pytest.raises(DataError, match=r"did you mean .*church_outdoor_val_lmdb"):
        open_source(tmp_path.joinpath("church_outdoor_val_lmdb").parent)
    with zipfile.ZipFile(tmp_path / "church.zip", "w") as file:
        file.write(folder / "data.mdb", "church/data.mdb")
    with pytest.raises(DataError, match="unpack it"):
        open_source(tmp_path / "church.zip")


def test_an_lmdb_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    (tmp_path / "data.mdb").write_bytes(b"junk" * 5000)
    with pytest.raises(DataError, match="not a readable LMDB"):
        open_source(tmp_path)


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of(rows: int) -> object:
    """A table as `datasets` writes it: structs of bytes and path, classes with names in the metadata."""
    pa = pytest.importorskip("pyarrow")
    cells = [{"bytes": png(seed), "path": None} for seed in range(rows)]
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    made = pa.table({"label": [seed % 2 for seed in range(rows)], "image": cells})
    return made.replace_schema_metadata(metadata)


def write_parquet(path: Path, rows: int) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table_of(rows), path, row_group_size=2)


def write_stream(path: Path, rows: int) -> None:
    pa = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "state.json").write_text("{}")
    (path.parent / "dataset_info.json").write_text("{}")
    made = table_of(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(made)


@pytest.mark.parametrize(
    ("write", "name"), [(write_parquet, "d/data/train-00000-of-00001.parquet"), (write_stream, "d/data-00000.arrow")]
)
def test_tables(write: Callable[[Path, int], None], name: str, tmp_path: Path) -> None:
    write(tmp_path / name, 11)  # more row groups than are kept in memory
    for path in (tmp_path / "d", tmp_path / name):
        same(path, list(range(11)))
        assert open_source(path).labels == [("cat", "dog")[seed % 2] for seed in range(11)]
    assert open_picture(open_source(tmp_path / name), 0).tobytes() == picture(0).tobytes()


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a.png").write_bytes(png(0))
    listed = Path.iterdir

    def iterdir(folder: Path) -> Any:
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert open_source(tmp_path).names == ["a.png"]


def test_a_table_beside_pictures_is_about_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "metadata.parquet", 3)
    (tmp_path / "a.png").write_bytes(png(0))
    assert open_source(tmp_path).names == ["a.png"]


def test_only_the_training_split_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", 3)
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", 2)
    assert len(open_source(tmp_path).names) == 3
    assert len(open_source(tmp_path / "data/test-00000-of-00001.parquet").names) == 2


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    broken, plain, empty = (tmp_path / f"{name}.parquet" for name in ("broken", "plain", "empty"))
    broken.write_bytes(b"PAR1 junk PAR1")
    pyarrow.parquet.write_table(pa.table({"text": ["a"]}), plain)
    pyarrow.parquet.write_table(pa.table({"image": pa.array([None], pa.binary())}), empty)
    with pytest.raises(DataError, match="not a readable table"):
        open_source(broken)
    with pytest.raises(DataError, match=r"no column of pictures .* it has: text"):
        open_source(plain)
    with pytest.raises(InputError, match="row 0 holds no picture"):
        open_picture(open_source(empty), 0)
    for part in ("train", "test"):
        (tmp_path / "many" / part).mkdir(parents=True)
        (tmp_path / "many" / part / "dataset_info.json").write_text("{}")
    (tmp_path / "many" / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match=r"several data sets: name one of .*test, .*train"):
        open_source(tmp_path / "many")


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("lmdb", "p/data.mdb", "lmdb"), ("pyarrow", "p/a.parquet", "parquet")]
)
def test_missing_packages_are_named(
    package: str, name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "p").mkdir()
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf'pip install "smalti\[{extra}\]"$'):
        open_source(tmp_path / "p")
