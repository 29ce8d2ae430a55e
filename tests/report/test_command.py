import subprocess
import sys
from pathlib import Path

import pytest

from repa.config.report import ReportOptions
from repa.errors import RepaError
from repa.report.command import run_report
from report.folders import write_run


def test_the_command_writes_a_page_and_says_where(
    tmp_path: Path, run_folders: list[Path], analysis: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    options = {"runs": run_folders, "analysis": analysis, "output_dir": folder, "title": "Hello"}
    page = run_report(ReportOptions(**options))
    assert page == folder / "report.html"
    assert capsys.readouterr().out == f"report: {page.resolve()}\n"
    assert "<h1>Hello</h1>" in page.read_text()
    assert "Settings of repa align" in page.read_text()


def test_a_former_report_is_replaced(tmp_path: Path) -> None:
    options = {"runs": write_run(tmp_path / "run"), "output_dir": tmp_path / "report"}
    run_report(ReportOptions(**options))
    page = run_report(ReportOptions(**options, title="Again"))
    assert "<h1>Again</h1>" in page.read_text()


def test_a_report_of_other_runs_is_replaced_if_told_so(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / name) for name in ("one", "other"))
    place = {"output_dir": tmp_path / "report"}
    page = run_report(ReportOptions(runs=(one, other), **place))
    run_report(ReportOptions(runs=(other, one), **place))  # the same in another order
    before = page.read_bytes()
    message = "--output-dir .*report holds a report of other runs: choose another, or --overwrite"
    with pytest.raises(RepaError, match=message):
        run_report(ReportOptions(runs=(one,), **place))
    assert page.read_bytes() == before
    run_report(ReportOptions(runs=(one,), **place, overwrite=True))
    assert page.read_bytes() != before


def test_other_files_are_not_written_among(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    with pytest.raises(RepaError, match="--output-dir .*run: expected a new .*other files"):
        run_report(ReportOptions(runs=(run,), output_dir=run))
    page.write_text("<title>mine</title>")
    with pytest.raises(RepaError, match=r"its report.html is of another origin"):
        run_report(ReportOptions(runs=(run,), output_dir=run))
    assert page.read_text() == "<title>mine</title>"
    with pytest.raises(RepaError, match="this is a file"):
        run_report(ReportOptions(runs=(run,), output_dir=page))


def test_a_name_that_no_folder_can_have_is_one_line(tmp_path: Path) -> None:
    run, name = write_run(tmp_path / "run"), "x" * 300
    with pytest.raises(RepaError, match=rf"^(--output-dir|cannot write) .*{name}.*too long$"):
        run_report(ReportOptions(runs=(run,), output_dir=tmp_path / name))


def test_the_default_analysis_may_be_missing_but_not_a_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run")
    run_report(ReportOptions(runs=(run,)))
    assert (tmp_path / "report" / "report.html").is_file()
    for folder in (tmp_path / "analysis", run):
        with pytest.raises(RepaError, match=r"--analysis .* expected a folder with probe.json"):
            run_report(ReportOptions(runs=(run,), analysis=folder))


def test_what_cannot_be_read_leaves_no_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "previews").mkdir()
    (run / "previews" / "1.png").write_bytes(b"no picture")
    with pytest.raises(RepaError, match=r"cannot read the picture .*1.png"):
        run_report(ReportOptions(runs=(run,), output_dir=tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_a_report_needs_no_pytorch() -> None:
    """Which takes seconds to import."""
    code = "import sys, repa.report.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
