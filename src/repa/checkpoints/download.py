"""The release's published checkpoint: SiT-XL/2 with REPA, ImageNet at 256 x 256."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from repa.errors import RepaError

# Where the release looks for it, and where it loads it from (its utils.py).
PUBLISHED = Path("pretrained_models", "last.pt")
PUBLISHED_URL = (
    "https://www.dl.dropboxusercontent.com/scl/fi/cxedbs4da5ugjq5wg3zrg/last.pt"
    "?rlkey=8otgrdkno0nd89po3dpwngwcc&st=apcc645o&dl=0"
)
LEAST_BYTES = 675_000_000 * 2  # its weights in half precision: no error page is that long
TIMEOUT = 30  # seconds without a byte
BLOCK = 2**20


def released_checkpoint() -> Path:
    """The published checkpoint below the working directory, downloaded if it is not there.

    One process may call it at a time.

    Raises:
        RepaError: if it cannot be downloaded or is not whole.
    """
    if not PUBLISHED.exists():
        download(PUBLISHED_URL, PUBLISHED, LEAST_BYTES)
    if PUBLISHED.stat().st_size < LEAST_BYTES:
        size = PUBLISHED.stat().st_size
        raise RepaError(
            f"{PUBLISHED} is not whole ({size:,} bytes, expected at least {LEAST_BYTES:,}): "
            "delete it, and it is downloaded again"
        )
    return PUBLISHED


def download(url: str, dest: Path, least_bytes: int) -> None:
    """Downloads a file beside its place, then renames it; what an earlier try left is continued.

    Args:
        url: from where.
        dest: the file to write.
        least_bytes: fewer than these are some other answer.

    Raises:
        RepaError: if it cannot be had whole or not be written. What came so far stays beside it.
    """
    is_new = not dest.parent.exists()
    try:
        _download(url, dest, least_bytes)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it has what came so far
                dest.parent.rmdir()
        raise


def _download(url: str, dest: Path, least_bytes: int) -> None:
    partial = dest.with_name(dest.name + ".partial")
    by_hand = f"download it from {url} elsewhere and put it at {dest}"
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        expected = _receive(url, partial)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise RepaError(f"cannot download {dest.name} ({reason}): {by_hand}") from None
    except OSError as error:
        raise RepaError(f"cannot write {partial}: {error.strerror}") from None
    received = partial.stat().st_size
    if expected is not None and received < expected:
        raise RepaError(
            f"the download of {dest.name} ended after {received:,} of {expected:,} bytes: run "
            f"this again to continue it, or {by_hand}"
        )
    if received < least_bytes or expected not in (None, received):
        partial.unlink()
        raise RepaError(
            f"{url} sent {received:,} bytes, not {dest.name} of at least {least_bytes:,}: {by_hand}"
        )
    partial.replace(dest)


def _receive(url: str, partial: Path) -> int | None:
    """Appends to what is there; returns the size of the whole file, if the server says it."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if not (start and error.code == 416):  # nothing after what is there
            raise
        partial.unlink()
        return _receive(url, partial)
    with response:
        if response.status != 206:  # the whole file, whatever was asked for
            start = 0
        length = response.headers.get("Content-Length")
        whole = start + int(length) if length is not None else None
        with (
            partial.open("r+b" if start else "wb") as file,
            tqdm(total=whole, initial=start, unit="B", unit_scale=True, desc=partial.stem) as bar,
        ):
            file.seek(start)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return whole
