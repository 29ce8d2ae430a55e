"""Recipes from anyone (`--config`): options or one line, whatever is in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reliability.mutations import (
    DEEP,
    VALUES,
    bounded_memory,
    mutated,
    only_documented,
    unchanged,
)
from repa import config
from repa.commandline import parse_options
from repa.errors import RepaError
from repa.recipes import MAX_BYTES

pytestmark = pytest.mark.promise("5 untrusted files")

COMMANDS: list[type[Any]] = [
    config.TrainOptions,
    config.SampleOptions,
    config.PrepareOptions,
    config.EvaluateOptions,
    config.ProbeOptions,
    config.AlignOptions,
    config.ReportOptions,
    config.ConvertOptions,
    config.EncodersOptions,
    config.DemoOptions,
]
RECIPES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
]
YAML = [
    b"a: &x [1]\nb: *x\n", b"<<: {batch_size: 3}\n", b"? [a, b]\n: c\n", b"? {a: b}\n: c\n",
    b"batch_size: 2001-99-99\n", b"batch_size: !!timestamp x\n", b"batch_size: !!bool maybe\n",
    b"batch_size: !!int x\n", b"seed: 1:99:99\n", b"seed: 0x\n", b"a: !!binary _\n",
    b"a: !!set {b}\n", b"--- a\n--- b\n", b"%YAML 9.9\n---\na: b\n", b"a: !!omap [1]\n", b"\x00",
    b"seed: " + b"9" * 5000, b"[" * 5000, b"{a: " * 5000, b"- " * 5000, b"\xff\xfe",
    b"!!python/none",
    b"a: !!pairs x\n", b"seed: .inf\n", b"seed: .nan\n", b"a: !!float x\n", b"a: !!null x\n",
]  # fmt: skip


def options_of(command: type[Any]) -> st.SearchStrategy[bytes]:
    """A recipe of a command's own options with values of any kind."""
    names = st.sampled_from(sorted(command.model_fields)) | st.text(max_size=9)
    values = VALUES.filter(lambda value: value != DEEP)
    recipe = st.dictionaries(names, values, min_size=1, max_size=3)
    return recipe.map(lambda r: yaml.dump(r, Dumper=Dumper).encode("utf-8", "replace"))


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


CONTENTS = (
    st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | st.sampled_from(YAML)
    | st.sampled_from(RECIPES).flatmap(mutated)
)


@given(data=st.data())
def test_any_recipe_is_options_or_one_line(
    data: st.DataObject, tmp_path: Path, survived: Callable[[], None]
) -> None:
    path = tmp_path / "recipe.yaml"
    command = data.draw(st.sampled_from(COMMANDS))
    path.write_bytes(data.draw(CONTENTS | options_of(command)))
    with unchanged(tmp_path), only_documented():
        parse_options(command, ["--config", str(path)], "repa")
    survived()


def laughs(levels: int) -> str:
    """A few lines that stand for 9^levels values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (laughs(12), r"aliases \(\*name\) are not read"),
        ("a: &a [*a]", r"aliases \(\*name\) are not read"),
        ("a: &a {b: 1}\nc:\n  <<: *a", r"aliases \(\*name\) are not read"),
        ("a: " + "[" * 100_000, "too deeply nested"),
        ("a: " + "x" * MAX_BYTES, f"expected at most {MAX_BYTES} bytes"),
        ("seed: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("a: 2001-99-99", "not YAML: month must be"),
        ("a: !!python/object/apply:os.system [echo]", "not YAML: could not determine"),
    ],
)
def test_a_recipe_that_attacks_is_one_line(recipe: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    with pytest.raises(RepaError, match=message) as error, bounded_memory(1 << 28):
        parse_options(config.TrainOptions, ["--config", str(path)], "repa")
    assert str(error.value).startswith(f"--config {path}: ")
