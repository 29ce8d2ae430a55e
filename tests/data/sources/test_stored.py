from pathlib import Path
from typing import Any

import pytest

from repa.data.sources import open_source
from repa.errors import RepaError


@pytest.mark.parametrize(
    "state", ["{", "{}", "[" * 100_000, '{"_data_files": [{"filename": "../../x.arrow"}]}']
)
def test_a_saved_folder_with_a_broken_state_is_one_clear_line(
    tmp_path: Path, hf: Any, table: Any, state: str
) -> None:
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(RepaError, match=r"^cannot read [^\n]*saved: damaged dataset: [^\n]+$"):
        open_source(str(tmp_path / "saved"))
