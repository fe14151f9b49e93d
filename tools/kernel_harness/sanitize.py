"""Run the native kernel under sanitizers: ``python -m tools.kernel_harness.sanitize [problems]``.

The harness solves random problems on 1 to 8 threads and compares the results with a naive implementation,
under AddressSanitizer with UndefinedBehaviorSanitizer and then under ThreadSanitizer. The environment
variable ``CXX`` selects the compiler. The exit status is nonzero if a run fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.kernel_harness.build import compile_harness

SANITIZERS = {"address,undefined": ["-fno-sanitize-recover=all"], "thread": []}


def main() -> int:
    """Build and run the harness with each sanitizer."""
    problems = sys.argv[1] if len(sys.argv) > 1 else "500"
    compiler = os.environ.get("CXX", "g++")
    # GCC aligns AddressSanitizer's fake stack frames to 32 bytes, but vectors need 64.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    for sanitizer, options in SANITIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            options = ["-g", "-O1", f"-fsanitize={sanitizer}", *options]
            harness = compile_harness(Path(folder), compiler, options)
            print(f"{sanitizer} sanitizer:", end=" ", flush=True)
            finished = subprocess.run([harness, problems, "0", "8"], env=environment)
        if finished.returncode:
            return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
