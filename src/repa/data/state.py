"""How far a dataset is: what a run starts from, which shards there are, when it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from repa.data.arrays import checksum
from repa.data.features import FEATURES, SCALE
from repa.data.format import (
    MANIFEST,
    FeatureRecord,
    Manifest,
    ShardRecord,
    TextRecord,
    read_manifest,
    read_record,
    shard_folder,
    write_manifest,
)
from repa.data.sources import Source, Stream
from repa.data.text import TEXT, empty_text_file, text_array, text_encoder_name
from repa.errors import RepaError
from repa.locks import LOCK

SAME = ("source", "resolution", "crop", "classes", "has_captions", "max_images")


def begin(
    dest: Path, wanted: Manifest, source: Source | Stream | None, jobs: Mapping[str, object]
) -> None:
    """Writes the manifest that a run works towards: `wanted`, joined with what is in `dest`.

    Args:
        dest: the dataset's folder; made if need be.
        wanted: what this run asks for.
        source: where it can take images from, if from anywhere.
        jobs: the arrays that it can compute.

    Raises:
        RepaError: if `dest` holds other files, another dataset, or one that this run cannot finish.
    """
    found = read_manifest(dest)
    if found is None:
        if dest.exists() and (not dest.is_dir() or _has_foreign_files(dest)):
            raise RepaError(f"{dest} exists and is not a prepared dataset; choose another --dest")
        target = wanted
    else:
        target = _join(dest, found, wanted)
    _check_that_it_can_be_finished(dest, target, source, jobs)
    (dest / "shards").mkdir(parents=True, exist_ok=True)
    if target != found:
        write_manifest(dest, target)


def _check_that_it_can_be_finished(
    dest: Path, target: Manifest, source: Source | Stream | None, jobs: Mapping[str, object]
) -> None:
    """An error if a shard is missing without a source, or an array without a job that makes it."""
    there = scan_shards(dest) if (dest / "shards").exists() else {}
    all_there = bool(target.shards) and there.keys() >= set(range(len(target.shards)))
    if source is None and not all_there:
        raise RepaError(f"{dest} lacks shards: run the same `repa prepare --source` again")
    lacking = set() if all_there else target.encoded_files()
    for record in there.values():
        lacking |= target.lacking_files(record)
    for name in target.text | target.unfinished_text:
        if not (dest / empty_text_file(name)).exists():
            lacking.add(f"{text_array(name)}.npy")
    if isinstance(source, Source) and source.moments is not None:
        lacking.discard("latents.npy")
    lacking -= {f"{job}{suffix}.npy" for job in jobs for suffix in ("", SCALE)}
    if "latents.npy" in lacking:
        raise RepaError(
            f"{dest} has unfinished latents: give --autoencoder {target.autoencoder.name}"
        )
    arrays = sorted({file.removesuffix(".npy").removesuffix(SCALE) for file in lacking})
    if names := [array.removeprefix(FEATURES) for array in arrays if array.startswith(FEATURES)]:
        raise RepaError(f"{dest} has unfinished features: add {','.join(names)} to --enc-type")
    if names := [text_encoder_name(array) for array in arrays if array.startswith(TEXT)]:
        raise RepaError(f"{dest} has unfinished text: add {','.join(names)} to --text-enc-type")


def _join(dest: Path, found: Manifest, wanted: Manifest) -> Manifest:
    """What is in `dest` with what this run adds; an error if the two do not fit."""
    compared = found
    if wanted.source.items is None:  # of a stream: known only when it has been read
        source = found.source.model_copy(update={"items": None})
        compared = found.model_copy(update={"source": source})
    differing = [key for key in SAME if getattr(compared, key) != getattr(wanted, key)]
    autoencoder = found.autoencoder
    if autoencoder.name == "pixel":
        autoencoder = wanted.autoencoder
    elif wanted.autoencoder.name != "pixel" and wanted.autoencoder != autoencoder:
        differing.append("autoencoder")
    features = found.features | found.unfinished_features
    added: dict[str, FeatureRecord] = {}
    for name, record in wanted.unfinished_features.items():
        if name not in features:
            added[name] = record
        elif record != features[name]:
            differing.append(FEATURES + name)
    text = found.text | found.unfinished_text
    added_text: dict[str, TextRecord] = {}
    for name, text_record in wanted.unfinished_text.items():
        if name not in text:
            added_text[name] = text_record
        elif _settings(text_record) != _settings(text[name]):
            differing.append(TEXT + name)
    if differing:
        raise RepaError(
            f"{dest} holds a dataset of another source or settings (different: "
            f"{', '.join(differing)}); choose another --dest"
        )
    return found.model_copy(
        update={
            "autoencoder": autoencoder,
            "complete": found.complete and autoencoder == found.autoencoder,
            "unfinished_features": found.unfinished_features | added,
            "unfinished_text": found.unfinished_text | added_text,
        }
    )


def _settings(record: TextRecord) -> dict[str, object]:
    """What decides about the tokens, without what was found in computing them."""
    return record.model_dump(exclude={"truncated", "empty_sha256"})


def _has_foreign_files(dest: Path) -> bool:
    """Whether there is more than what a run leaves that was killed at its very beginning."""
    own = {MANIFEST + ".partial", "shards", LOCK}
    return any(path.name not in own for path in dest.iterdir()) or any(dest.glob("shards/*"))


def scan_shards(dest: Path) -> dict[int, ShardRecord]:
    """The records of the shards whose images are whole, by number, ascending.

    Raises:
        RepaError: if a record is broken.
    """
    records = {}
    for folder in sorted((dest / "shards").iterdir()):
        record = read_record(folder) if folder.name.isdecimal() else None
        if record is not None and record.name == folder.name:  # else someone moved it here
            records[int(folder.name)] = record
    return records


def finish(dest: Path, empty_texts: Mapping[str, str]) -> None:
    """Enters the shards into the manifest and calls the dataset complete.

    Args:
        dest: the dataset's folder.
        empty_texts: SHA-256 of the empty captions that this run wrote, by the text encoder.

    Raises:
        RepaError: if there is no image, in which case nothing of the dataset is left, or if a shard
            is missing.
    """
    manifest = read_manifest(dest)
    assert manifest is not None  # this run began with writing it
    there = scan_shards(dest)
    records = list(there.values())
    items = sum(record.items for record in records)
    if not any(record.images for record in records):
        _remove(dest, manifest)
        raise RepaError(
            f"no image in {manifest.source.name}: none of its {items} files could be read"
        )
    source = manifest.source
    expected = items  # of a stream, which has been read to its end
    if source.items is not None:
        expected = min(source.items, manifest.max_images or source.items)
    if list(there) != list(range(len(there))) or items != expected:
        raise RepaError(
            f"{dest} has {len(there)} shards with {items} of {expected} items: run the same "
            "`repa prepare --source` again"
        )
    if source.items is None:
        source = source.model_copy(update={"items": items})
    finished = manifest.model_copy(
        update={
            "source": source,
            "features": dict(sorted((manifest.features | manifest.unfinished_features).items())),
            "unfinished_features": {},
            "text": _finished_text(dest, manifest, records, empty_texts),
            "unfinished_text": {},
            "shards": records,
            "complete": True,
        }
    )
    if finished != manifest:
        write_manifest(dest, finished)


def _remove(dest: Path, manifest: Manifest) -> None:
    """Removes a dataset, and what may have been put beside it stays."""
    for number in scan_shards(dest):
        shutil.rmtree(shard_folder(dest, number))
    for name in manifest.text | manifest.unfinished_text:
        (dest / empty_text_file(name)).unlink(missing_ok=True)
    (dest / MANIFEST).unlink()
    with suppress(OSError):  # not empty
        (dest / "shards").rmdir()


def _finished_text(
    dest: Path, manifest: Manifest, shards: list[ShardRecord], empty_texts: Mapping[str, str]
) -> dict[str, TextRecord]:
    """All text of a dataset, with what is known now that it is finished."""
    finished = {}
    for name, record in sorted((manifest.text | manifest.unfinished_text).items()):
        sha256 = empty_texts.get(name) or record.empty_sha256
        update = {
            "truncated": sum(shard.truncated.get(name, 0) for shard in shards),
            "empty_sha256": sha256 or checksum(dest / empty_text_file(name)),
        }
        finished[name] = record.model_copy(update=update)
    return finished
