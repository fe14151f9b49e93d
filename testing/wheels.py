"""Files of published wheels, pinned by version and hash."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("JAXLSTM_WHEEL_CACHE", Path(__file__).parents[1] / ".wheels"))

# Version and sha256 of the wheel of each package. Licences: MIT (silero-vad), Apache-2.0
# (resemblyzer, g2pM), CC BY 4.0 (BeatNet). "@5.1" is another version of a package.
PINS = {
    "beatnet": ("1.1.3", "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e"),
    "resemblyzer": ("0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"),
    "silero-vad": ("6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    "silero-vad@5.1": ("5.1", "ecb50b484f538f7a962ce5cd3c07120d9db7b9d5a0c5861ccafe459856f22c8f"),
    "deepbet": ("1.0.2", "1999e2ea00ec48f6233b95b96f3901a962d3f70431c63aeb985e8a49a198473c"),
    "nnsplit": ("0.2.2", "c32bc25598eafa1d4d3a52658fba6ebfb5b034d62e0c7a75c1e7db3a89a14ee9"),
    "silero-stress": ("1.5", "408e333e67ebb407be656f32e8d5c46ad811c2598ebdbaed0e627ee980579e4a"),
    "g2pM": ("0.1.2.5", "9e920b82df4002f96d8679720c7a858d10816d438dbd61b8b6b621a80a976361"),
}


def fetch_pinned(package: str, member: str) -> Path:
    """Return the path of a file of a wheel. Skip the test if the package index is unreachable.

    Args:
        package: Name in ``PINS``. A wheel with another hash fails the test.
        member: Path of the file in the wheel.
    """
    version, sha256 = PINS[package]
    package = package.partition("@")[0]
    folder = CACHE / f"{package}-{version}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            pinned = Path(made, "requirements.txt")
            pinned.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
            command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--quiet"]
            command += ["--target", f"{made}/files", "-r", str(pinned)]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "HASHES" not in finished.stderr, finished.stderr
            if finished.returncode:
                pytest.skip(f"{package} cannot be downloaded: {finished.stderr.strip()}")
            if not folder.exists():  # another process may have been faster
                Path(made, "files").rename(folder)
    return folder / member
