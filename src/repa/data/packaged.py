"""Files inside installed packages, read as data: the packages' code is never run."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from repa.errors import RepaError


def packaged_files(package: str, part: str) -> list[Path]:
    """Paths of the installed package's files whose path contains `part`, sorted.

    Raises:
        RepaError: if the package is not installed or has no such file.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise RepaError(
            f"the package {package} is not installed; get it with: pip install 'repa[demo]'"
        ) from None
    paths = sorted(Path(str(file.locate())) for file in files if part in file.as_posix())
    if not paths or not paths[0].exists():
        raise RepaError(f"the installed package {package} has no file {part}; install it again")
    return paths
