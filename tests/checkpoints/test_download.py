"""The published checkpoint, from a server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from repa.checkpoints import download as module
from repa.checkpoints.download import download, released_checkpoint
from repa.errors import RepaError

DATA = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        start = 0
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/resumable" and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(DATA):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        body = b"<html>too many requests</html>" if self.path == "/page" else DATA[start:]
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/short" else body)

    def log_message(self, *_) -> None: ...


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def get(server: ThreadingHTTPServer, tmp_path: Path):
    """Downloads a path of the server to the returned file."""

    def call(path: str) -> Path:
        dest = tmp_path / "models" / "last.pt"
        download(f"http://127.0.0.1:{server.server_port}/{path}", dest, 1000)
        return dest

    return call


@pytest.mark.parametrize("path", ["whole", "unsized", "resumable"])
def test_a_whole_file(get, path: str, capsys) -> None:
    dest = get(path)
    assert dest.read_bytes() == DATA
    assert [p.name for p in dest.parent.iterdir()] == ["last.pt"]
    assert "last.pt: " in capsys.readouterr().err, "no progress shown"


def test_a_connection_that_ends_early_is_told_and_continued(get, server, tmp_path) -> None:
    with pytest.raises(RepaError, match=r"ended after 51,200 of 102,400 bytes: run this again"):
        get("short")
    assert not (tmp_path / "models" / "last.pt").exists()
    assert get("resumable").read_bytes() == DATA
    assert server.requests == [("/short", None), ("/resumable", "bytes=51200-")]


def test_a_server_that_starts_anew_when_asked_to_continue(get, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "last.pt.partial").write_bytes(b"x" * 500)
    assert get("whole").read_bytes() == DATA


def test_more_there_than_the_server_has(get, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "last.pt.partial").write_bytes(b"x" * (len(DATA) + 1))
    assert get("resumable").read_bytes() == DATA


def test_a_page_instead_of_the_file(get, tmp_path: Path) -> None:
    with pytest.raises(RepaError, match=r"sent 30 bytes, not last.pt of at least 1,000: download"):
        get("page")
    assert not (tmp_path / "models").exists()
    (tmp_path / "models").mkdir()  # someone's own stays
    with pytest.raises(RepaError, match=r"sent 30 bytes"):
        get("page")
    assert (tmp_path / "models").exists()


def test_no_such_file(get, server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/missing"
    message = (
        rf"cannot download last.pt \(Not Found\): download it from {url} .* put it at .*last.pt"
    )
    with pytest.raises(RepaError, match=message):
        get("missing")


def test_offline(tmp_path: Path) -> None:
    dest = tmp_path / "models" / "last.pt"
    for url in ("http://127.0.0.1:9/last.pt", "http://nowhere.invalid/last.pt"):
        with pytest.raises(
            RepaError, match=rf"cannot download last.pt \(.*\): .* put it at {dest}"
        ):
            download(url, dest, 1000)
        assert not dest.parent.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RepaError, match=r"cannot write .*last\.pt\.partial"):
        download("http://127.0.0.1:9/", tmp_path / "models" / "last.pt", 1000)


class TestReleasedCheckpoint:
    @pytest.fixture(autouse=True)
    def small(self, tmp_path: Path, server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "LEAST_BYTES", 1000)
        url = f"http://127.0.0.1:{server.server_port}/whole"
        monkeypatch.setattr(module, "PUBLISHED_URL", url)

    def test_is_downloaded_once(self, server) -> None:
        path = released_checkpoint()
        assert path == Path("pretrained_models", "last.pt")
        assert path.read_bytes() == DATA
        assert released_checkpoint() == path
        assert len(server.requests) == 1

    def test_what_another_program_left_unfinished(self, server) -> None:
        Path("pretrained_models").mkdir()
        Path("pretrained_models", "last.pt").write_bytes(b"x" * 999)
        with pytest.raises(RepaError, match=r"last.pt is not whole \(999 bytes.*delete it"):
            released_checkpoint()
        assert not server.requests


def test_the_published_file_is_that_of_the_release() -> None:
    assert module.PUBLISHED_URL.startswith("https://")
    assert "/last.pt?" in module.PUBLISHED_URL
    assert module.LEAST_BYTES == 1_350_000_000
