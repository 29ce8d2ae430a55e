"""What holds for every kind of source, whole or broken."""

import contextlib
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from repa.data.images import decode_image
from repa.data.sources import Source, Stream, open_source
from repa.errors import RepaError

Files = dict[str, bytes]
Write = Callable[[Path, Files], Path]

KINDS = ["folder", "zip", "imagenet", "imagenet zip", "tar", "tars", "parquet", "arrow", "saved"]


@pytest.fixture(scope="module")
def files(picture: Callable[..., bytes]) -> Files:
    formats = ("PNG", "JPEG", "WEBP", "GIF")
    return {
        f"n0000000{i % 3}/{i:02d}.{formats[i % 4].lower()}": picture(i, (20, 24), formats[i % 4])
        for i in range(24)
    }


@pytest.fixture(scope="module")
def make(
    write_folder: Write, write_zip: Write, write_tar: Write, files: Files, request: Any
) -> Callable[[str, Path], str]:
    """Writes the same images as a source of a kind and gives what `--source` would name."""

    def table() -> Any:
        hf = request.getfixturevalue("hf")
        columns = {"image": list(files.values()), "label": [int(n[8]) for n in files]}
        features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=["a", "b", "c"]))
        return hf.Dataset.from_dict(columns, features=features)

    def write(kind: str, root: Path) -> str:
        root.mkdir(exist_ok=True)
        imagenet = {f"ILSVRC/Data/CLS-LOC/train/{name}": data for name, data in files.items()}
        match kind:
            case "folder":
                write_folder(root / "images", files)
                return f"{root}/images"
            case "zip":
                return str(write_zip(root / "images.zip", files))
            case "imagenet":
                return str(write_folder(root, imagenet))
            case "imagenet zip":
                return str(write_zip(root / "images.zip", imagenet))
            case "tar":
                return str(write_tar(root / "images.tar", files))
            case "tars":
                for shard in range(3):
                    part = {name: files[name] for name in list(files)[8 * shard : 8 * shard + 8]}
                    write_tar(root / f"images-{shard:02d}.tar", part)
                return f"{root}/images-{{00..02}}.tar"
            case "parquet":
                table().to_parquet(root / "images.parquet")
                return f"{root}/images.parquet"
        table().save_to_disk(root / "images")
        if kind == "arrow":
            return str(next(root.glob("images/*.arrow")))
        return f"{root}/images"

    return write


class Everything:
    """A source as a dataset of PyTorch."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source.items)

    def __getitem__(self, index: int) -> tuple[str, int, bytes]:
        item = self.source.items[index]
        return item.name, item.label, self.source.read(index)


def rows(source: Source) -> list[tuple[str, int, bytes]]:
    return [Everything(source)[index] for index in range(len(source.items))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_read_with_its_class(
    kind: str, make: Callable[[str, Path], str], tmp_path: Path, files: Files
) -> None:
    source = open_source(make(kind, tmp_path))
    wanted = {(int(name[8]), data) for name, data in files.items()}
    assert {(label, data) for _, label, data in rows(source)} == wanted
    assert len(source.items) == len(files) == len({item.name for item in source.items})
    assert len(source.classes) == 3


@pytest.mark.parametrize("kind", [*KINDS, "twemoji"])
def test_it_can_be_pickled_and_read_by_several_processes(
    kind: str, make: Callable[[str, Path], str], tmp_path: Path
) -> None:
    source = open_source(kind if kind == "twemoji" else make(kind, tmp_path))
    source.items = source.items[:30]
    before = rows(source)  # whatever it opens, it opens before the processes start
    assert rows(pickle.loads(pickle.dumps(source))) == before
    loader = DataLoader(Everything(source), batch_size=5, num_workers=2, collate_fn=list)
    assert [row for batch in loader for row in batch] == before
    assert rows(source) == before


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_in_another_place(
    kind: str, make: Callable[[str, Path], str], tmp_path: Path
) -> None:
    path = make(kind, tmp_path / "one")
    before = open_source(path)
    before_rows = rows(before)
    (tmp_path / "one").rename(tmp_path / "other")
    after = open_source(path.replace(str(tmp_path / "one"), str(tmp_path / "other")))
    assert (after.items, after.classes) == (before.items, before.classes)
    assert after.fingerprint == before.fingerprint
    assert rows(after) == before_rows


def broken(data: bytes, seed: int) -> bytes:
    """The bytes with some flipped, cut off, or replaced, as the seed has it."""
    rng = random.Random(seed)
    match seed % 4:
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            start = rng.randrange(len(data))
            return data[:start] + data[start + rng.randrange(1, 600) :]
        case 2:
            start = rng.randrange(len(data))
            return data[:start] + rng.randbytes(100) + data[start + 100 :]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 10, 100])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def decode_all(source: Source) -> None:
    """Reads and decodes everything; single images may fail, as `prepare` expects of them."""
    for index in range(len(source.items)):
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            decode_image(source.read(index))


def refusal(action: Callable[[], object]) -> str:
    """The `RepaError` that an action ends with, or nothing."""
    try:
        action()
    except RepaError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_broken_images_fail_alone(
    kind: str, tmp_path: Path, write_folder: Write, picture: Callable[..., bytes]
) -> None:
    images = {f"{i}.png": broken(picture(i, (40, 40), kind), i) for i in range(40)}
    source = open_source(str(write_folder(tmp_path, images)))
    assert len(source.items) == 40
    assert [source.read(i) for i in range(40)] == [images[item.name] for item in source.items]
    decode_all(source)


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet", "arrow"])
def test_broken_archives_are_one_clear_line_or_lack_images(
    kind: str, make: Callable[[str, Path], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(make(kind, tmp_path))
    whole = path.read_bytes()
    refusals = []
    for seed in range(30):
        path.write_bytes(broken(whole, seed))
        refusals.append(refusal(lambda: decode_all(open_source(str(path)))))
    assert any(refusals)
    assert not all(refusals)
    assert not any("\n" in line for line in refusals)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_broken_streams_end_with_one_clear_line(
    kind: str, make: Callable[[str, Path], str], tmp_path: Path
) -> None:
    path = Path(make(kind, tmp_path))
    whole = path.read_bytes()

    def read() -> None:
        stream = open_source(str(path), streaming=True)
        assert isinstance(stream, Stream)
        assert len(list(stream.samples())) <= 24

    for seed in range(20):
        path.write_bytes(broken(whole, seed))
        assert "\n" not in refusal(read)
