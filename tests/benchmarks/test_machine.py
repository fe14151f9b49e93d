"""Settings of the process in which the benchmarks run."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from benchmarks.machine import ROOT

PAGES = """
import resource, sys
from benchmarks.machine import keep_freed_memory
import numpy as np
if "keep" in sys.argv: keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets an option of glibc's malloc")
def test_freed_memory_is_kept() -> None:
    """A second array of 64 MiB takes no fresh pages."""
    pages = {
        option: int(subprocess.check_output([sys.executable, "-c", PAGES, option], cwd=ROOT))
        for option in ("free", "keep")
    }
    assert pages["keep"] < 10 < pages["free"]
