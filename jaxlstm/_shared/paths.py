"""Errors for a path of the wrong type or that does not exist, without the number of a system error."""

from __future__ import annotations

import os
from pathlib import Path


def require_path(path: object, fix: str) -> None:
    """Raise TypeError, with the fix at the end of its message, if ``path`` is not a path."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or os.PathLike, got {type(path).__name__}; {fix}")


def require_exists(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError if neither a file nor a folder exists at ``path``."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such file: {os.fspath(path)}")


def require_folder_of(path: Path) -> None:
    """Raise FileNotFoundError if the folder in which ``path`` is to be written does not exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: the folder {path.parent} does not exist; create it or choose another path"
        )
