import contextlib
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repa.data.sources import Columns, Item, Source, Stream, open_source
from repa.errors import RepaError

Picture = Callable[..., bytes]


def rows(source: Source | Stream) -> list[tuple[Item, bytes]]:
    if isinstance(source, Stream):
        return list(source.samples())
    return [(item, source.read(i)) for i, item in enumerate(source.items)]


def parquet(table: Any, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return str(path)


@pytest.fixture
def expected(picture: Picture) -> list[tuple[Item, bytes]]:
    return [(Item(f"{i:08d}", (i + 1) % 3, (f"picture {i}",)), picture(i)) for i in range(7)]


@pytest.fixture(params=["parquet", "arrow", "folder", "data", "saved", "saved splits", "hf"])
def path(request: pytest.FixtureRequest, tmp_path: Path, hf: Any, table: Any) -> str:
    """The table in each of its forms on disk."""
    folder = tmp_path / "things"
    match request.param:
        case "parquet":
            return parquet(table, tmp_path / "things.parquet")
        case "arrow":
            table.save_to_disk(folder)
            return str(next(folder.glob("*.arrow")).rename(tmp_path / "things.arrow"))
        case "saved":
            table.save_to_disk(folder)
        case "saved splits":
            hf.DatasetDict(train=table, test=table.select(range(2))).save_to_disk(folder)
        case form:  # two shards of train, and another split
            inner = folder / "data" if form == "data" else folder
            parquet(table.select(range(4)), inner / "train-00000-of-00002.parquet")
            parquet(table.select(range(4, 7)), inner / "train-00001-of-00002.parquet")
            parquet(table.select(range(2)), inner / "test-00000-of-00001.parquet")
            (folder / "README.md").write_text("about")
            return f"hf:{folder}" if form == "hf" else str(folder)
    return str(folder)


def test_every_form_gives_the_same_rows(path: str, expected: list[tuple[Item, bytes]]) -> None:
    source = open_source(path)
    assert isinstance(source, Source)
    assert source.name == Path(path).name
    assert source.classes == ["a", "b", "c"]
    assert rows(source) == expected


def test_every_form_can_be_streamed(path: str, expected: list[tuple[Item, bytes]]) -> None:
    stream = open_source(path, streaming=True)
    assert isinstance(stream, Stream)
    assert stream.name == Path(path).name
    assert stream.classes == ["a", "b", "c"]
    assert stream.has_captions
    assert stream.count in (None, 7)
    assert rows(stream) == expected
    assert rows(stream) == expected  # always from the start
    assert list(stream.samples(3)) == expected[3:]
    assert list(stream.samples(7)) == list(stream.samples(9)) == []
    assert rows(pickle.loads(pickle.dumps(stream))) == expected
    assert stream.fingerprint == open_source(path, streaming=True).fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_is_chosen(
    tmp_path: Path, hf: Any, table: Any, streaming: bool, expected: list[tuple[Item, bytes]]
) -> None:
    hf.DatasetDict(train=table, test=table.select(range(2))).save_to_disk(tmp_path / "saved")
    parquet(table, tmp_path / "folder/train-0.parquet")
    parquet(table.select(range(2)), tmp_path / "folder/test-0.parquet")
    for path in (f"{tmp_path}/saved", f"{tmp_path}/folder", f"hf:{tmp_path}/folder"):
        assert rows(open_source(path, split="test", streaming=streaming)) == expected[:2]
        with pytest.raises(RepaError, match="split") as error:
            open_source(path, split="val", streaming=streaming)
        assert "train" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_split_of_what_has_none_is_an_error(tmp_path: Path, table: Any) -> None:
    table.save_to_disk(tmp_path / "saved")
    for path in (str(tmp_path / "saved"), parquet(table, tmp_path / "x.parquet")):
        with pytest.raises(RepaError, match="has no splits; leave out --split"):
            open_source(path, split="train")


def test_other_data_of_the_same_length_have_another_fingerprint(tmp_path: Path, table: Any) -> None:
    images = table.select_columns(["image"])
    prints = set()
    for number, part in enumerate((images.select(range(3)), images.select(range(3, 6)))):
        path = parquet(part, tmp_path / str(number) / "x.parquet")
        prints |= {open_source(path).fingerprint, open_source(path, streaming=True).fingerprint}
    assert len(prints) == 4


LABELS: dict[str, tuple[list, str, list[int], list[str]]] = {
    "integers": ([2, 0, 2], "int64", [2, 0, 2], ["0", "1", "2"]),
    "small integers": ([2, 0, 2], "uint8", [2, 0, 2], ["0", "1", "2"]),
    "names": (["dog", "cat", "dog"], "string", [1, 0, 1], ["cat", "dog"]),
}


@pytest.mark.parametrize(("values", "dtype", "labels", "classes"), LABELS.values(), ids=LABELS)
def test_labels_need_no_class_names(
    tmp_path: Path, hf: Any, values: list, dtype: str, labels: list[int], classes: list[str]
) -> None:
    features = hf.Features(img=hf.Value("binary"), labels=hf.Value(dtype))
    table = hf.Dataset.from_dict({"img": [b"x"] * 3, "labels": values}, features=features)
    path = parquet(table, tmp_path / "x.parquet")
    source = open_source(path)
    assert [item.label for item in source.items] == labels
    assert source.classes == classes
    with pytest.raises(RepaError, match="column labels are known only at the end"):
        open_source(path, streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_without_labels_there_is_one_class(tmp_path: Path, hf: Any, streaming: bool) -> None:
    table = hf.Dataset.from_dict({"png": [b"x", b"y"]})
    source = open_source(parquet(table, tmp_path / "x.parquet"), streaming=streaming)
    assert len(source.classes) == 1
    assert rows(source) == [(Item("00000000", 0), b"x"), (Item("00000001", 0), b"y")]


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_may_be_several_or_missing(
    tmp_path: Path, hf: Any, streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [["one", "two"], [], None, ["three", None], ["", " four\n", "\t"]]
    columns = {"jpg": [b"x"] * 5, "captions": captions}
    path = parquet(hf.Dataset.from_dict(columns), tmp_path / "x.parquet")
    found = [item.captions for item, _ in rows(open_source(path, streaming=streaming))]
    assert found == [("one", "two"), (), (), ("three",), ("four",)]
    counted = "warning: captions of x.parquet: 2 x image without a caption\n"
    assert (counted in capsys.readouterr().err) is not streaming


@pytest.fixture
def odd(tmp_path: Path, hf: Any) -> str:
    """A table with columns that several readings fit."""
    columns = {"front": [b"f"], "back": [b"b"], "fine_label": [0], "coarse": [1], "note": ["n"]}
    names = hf.ClassLabel(names=["a", "b"])
    features = hf.Features(
        front=hf.Image(), back=hf.Image(), fine_label=names, coarse=names, note=hf.Value("string")
    )
    return parquet(hf.Dataset.from_dict(columns, features=features), tmp_path / "x.parquet")


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_are_chosen(odd: str, streaming: bool) -> None:
    chosen = Columns(image="back")
    assert rows(open_source(odd, streaming=streaming, columns=chosen)) == [
        (Item("00000000", 0), b"b")
    ]
    chosen = Columns(image="front", label="coarse", caption="note")
    assert rows(open_source(odd, streaming=streaming, columns=chosen)) == [
        (Item("00000000", 1, ("n",)), b"f")
    ]


BAD_COLUMNS = {
    "ambiguous": (Columns(), "several image columns, front, back: choose one with --image-column"),
    "missing": (Columns(image="img"), r"no image column img; it has front \(Image\), back \(Image"),
    "label of images": (Columns(image="back", label="front"), "has no label column front"),
    "caption of labels": (Columns(image="back", caption="coarse"), r"no caption .* \(ClassLabel\)"),
}


@pytest.mark.parametrize(("columns", "message"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_do_not_fit(odd: str, columns: Columns, message: str, streaming: bool) -> None:
    with pytest.raises(RepaError, match=message):
        open_source(odd, streaming=streaming, columns=columns)


def test_a_table_without_images_names_its_columns(tmp_path: Path, hf: Any) -> None:
    table = hf.Dataset.from_dict({"image": ["a"], "sizes": [[1]], "x": [1.0]})
    path = parquet(table, tmp_path / "x.parquet")
    listing = r"image \(string\), sizes \(list of int64\), x \(float64\)"
    with pytest.raises(RepaError, match=f"no column of x.parquet holds images; it has {listing}$"):
        open_source(path)


BAD_LABELS = {
    "unlabeled split": ([0, -1], "class", "row 1 of x.parquet has label -1; expected 0 to 1"),
    "beyond the classes": ([0, 2], "class", "row 1 of x.parquet has label 2; expected 0 to 1"),
    "no class": ([0, None], "class", "row 1 of x.parquet has no label"),
    "negative": ([0, -1], "int64", "x.parquet has class -1; expected 0 to 999999"),
    "absurd": ([0, 10**9], "int64", "x.parquet has class 1000000000; expected"),
    "missing": ([0, None], "int64", "row 1 of x.parquet has no label"),
    "no name": (["a", None], "string", "row 1 of x.parquet has no label"),
}


@pytest.mark.parametrize(("values", "dtype", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_one_clear_line(
    tmp_path: Path, hf: Any, values: list, dtype: str, message: str
) -> None:
    # Written without the library, which checks classes.
    feature = hf.ClassLabel(names=["a", "b"]) if dtype == "class" else hf.Value(dtype)
    dtype = "int64" if dtype == "class" else dtype
    plain = hf.Features(image=hf.Value("binary"), label=hf.Value(dtype))
    table = hf.Dataset.from_dict({"image": [b"x", b"y"], "label": values}, features=plain)
    table.info.features = hf.Features(image=hf.Value("binary"), label=feature)
    path = parquet(table, tmp_path / "x.parquet")
    with pytest.raises(RepaError, match=message):
        open_source(path)
    if dtype == "int64" and not isinstance(feature, hf.Value):
        stream = open_source(path, streaming=True).samples()
        next(stream)
        with pytest.raises(RepaError, match=message):
            next(stream)


def write_paths(hf: Any, paths: list[str | None], file: Path) -> str:
    """A table of paths; the library itself would put the files' bytes into it."""
    features = hf.Features(image=hf.Image())
    table = hf.Dataset.from_dict({"image": paths}, features=features).data.table
    pytest.importorskip("pyarrow.parquet").write_table(table.cast(features.arrow_schema), file)
    return str(file)


def test_images_may_be_stored_as_paths(tmp_path: Path, hf: Any) -> None:
    (tmp_path / "one.png").write_bytes(b"one")
    paths = [str(tmp_path / "one.png"), str(tmp_path / "gone.png"), None]
    path = write_paths(hf, paths, tmp_path / "x.parquet")
    source = open_source(path)
    assert source.read(0) == b"one"
    with pytest.raises(FileNotFoundError):
        source.read(1)
    with pytest.raises(ValueError, match="no image in this row"):
        source.read(2)
    stream = open_source(path, streaming=True)
    assert [data for _, data in stream.samples()] == [b"one", b"", b""]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_image_files_is_read_too(
    tmp_path: Path, hf: Any, streaming: bool, picture: Picture
) -> None:
    for i in range(4):
        path = tmp_path / "things/train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    source = open_source(f"hf:{tmp_path}/things", streaming=streaming)
    assert source.classes == ["a", "b"]
    assert [item.label for item, _ in rows(source)] == [0, 0, 1, 1]
    assert [data for _, data in rows(source)] == [picture(i) for i in (0, 2, 1, 3)]


def test_files_at_addresses_are_read(tmp_path: Path, hf: Any, picture: Picture) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/1.png", picture(1))
    paths = [f"zip://a/1.png::{tmp_path}/x.zip", f"zip://gone.png::{tmp_path}/x.zip"]
    path = write_paths(hf, paths, tmp_path / "x.parquet")
    assert open_source(path).read(0) == picture(1)
    samples = open_source(path, streaming=True).samples()
    assert next(samples)[1] == picture(1)
    with pytest.raises(RepaError, match="cannot read on in x.parquet"):
        next(samples)


@pytest.mark.parametrize("address", ["http://a.b/1.png", "zip://1.png::https://a.b/x.zip"])
def test_a_table_cannot_make_us_ask_a_server(tmp_path: Path, hf: Any, address: str) -> None:
    path = write_paths(hf, [address], tmp_path / "x.parquet")
    with pytest.raises(
        ValueError, match="is not read; only files in the dataset's folder and the hub are"
    ):
        open_source(path).read(0)
    with pytest.raises(RepaError, match="cannot read on in x.parquet: .* is not read"):
        next(open_source(path, streaming=True).samples())


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_out_of_reach_is_one_clear_line(hf: Any, streaming: bool) -> None:
    for name in ("hf:someone/something", "hf:something", "hf:someone/something:config"):
        with pytest.raises(RepaError, match=f"^cannot read {name}: .*[Oo]ffline") as error:
            open_source(name, streaming=streaming)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["hf:", "hf::", "hf:a/b/c/d", "hf:a b", "hf:/nowhere"])
def test_a_name_that_cannot_be_is_one_clear_line(hf: Any, name: str, streaming: bool) -> None:
    with pytest.raises(RepaError, match="^cannot read hf:|names no dataset: expected") as error:
        open_source(name, streaming=streaming)
    assert "\n" not in str(error.value)


def test_a_config_is_chosen(tmp_path: Path, hf: Any, table: Any) -> None:
    parquet(table, tmp_path / "things/small/train.parquet")
    card = "---\nconfigs:\n- config_name: small\n  data_files: small/train.parquet\n---\n"
    (tmp_path / "things/README.md").write_text(card)
    assert len(rows(open_source(f"hf:{tmp_path}/things:small"))) == 7
    with pytest.raises(RepaError, match="cannot read hf:.*things:large: BuilderConfig 'large' not"):
        open_source(f"hf:{tmp_path}/things:large")


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path, hf: Any, table: Any) -> None:
    parquet(table, tmp_path / "a:b/train.parquet")
    assert len(rows(open_source(f"{tmp_path}/a:b"))) == 7


def test_code_beside_a_dataset_is_not_run(tmp_path: Path, hf: Any, table: Any) -> None:
    folder = tmp_path / "things"
    parquet(table, folder / "train.parquet")
    (folder / "things.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    for path in (str(folder), f"hf:{folder}"):
        with contextlib.suppress(RepaError):
            open_source(path)
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("hf:cifar10", str(tmp_path / "x.parquet")):
        with pytest.raises(RepaError, match=r"need a package: pip install 'repa\[hf\]'"):
            open_source(source)


def test_a_folder_of_images_with_a_table_is_a_folder_of_images(
    tmp_path: Path, hf: Any, table: Any
) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "things" / name).parent.mkdir(parents=True)
        (tmp_path / "things" / name).write_bytes(b"x")
    parquet(table, tmp_path / "things/metadata.parquet")
    assert open_source(str(tmp_path / "things")).classes == ["cat", "dog"]
    shutil.rmtree(tmp_path / "things/cat")
    shutil.rmtree(tmp_path / "things/dog")
    assert open_source(str(tmp_path / "things")).classes == ["a", "b", "c"]


def test_a_stream_that_does_not_tell_its_columns_is_one_clear_line(tmp_path: Path, hf: Any) -> None:
    (tmp_path / "train.csv").write_text("image,label\na.png,1\n")
    message = r"^\S+ does not tell its columns; leave out --streaming$"
    with pytest.raises(RepaError, match=message):
        open_source(f"hf:{tmp_path}", streaming=True)
