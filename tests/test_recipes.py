from pathlib import Path

import pytest

from repa.errors import RepaError
from repa.recipes import MAX_BYTES, read_yaml


def test_names_and_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\nb: [x, 0.5, null]\n3: true\n")
    expected = {"a": 1, "b": ["x", 0.5, None], "3": True}
    assert read_yaml(tmp_path / "x.yaml", "recipe") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &x 1\nb: *x", r"recipe: not YAML: aliases \(\*name\) are not read .*line 2"),
        ("[" * 9999, "recipe: not YAML of options: too deeply nested"),
        ("- a", "recipe: expected lines of the form `name: value`"),
        ("a: " + "x" * MAX_BYTES, f"recipe: expected at most {MAX_BYTES} bytes"),
        ("a: \xe9", "recipe: not YAML: 'utf-8' codec"),
    ],
)
def test_anything_else_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(content, encoding="latin-1")
    with pytest.raises(RepaError, match=message):
        read_yaml(tmp_path / "x.yaml", "recipe")
