"""What NVIDIA's assembler makes of the kernels: ``python -m tests.aot.gpu.report``, by ``ptxas``.

Registers of a thread, of which there are 255 at most, and bytes that it spills to memory for want of more, by
``ptxas --verbose``. A spill counts once for each place in the program; most are in the loop over time.
Nothing here is a measurement.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from jaxlstm import LSTMConfig
from tests.aot.gpu.chips import CHIPS, Ptx, compiled
from tests.aot.programs import Program

BASE = Program("B=32, I=64", LSTMConfig(64, 64), batch=32, gradient=True, backend="pallas")
SETTINGS = [("float32", "highest"), ("float32", "high"), ("bfloat16", "highest")]
ARCHITECTURES = {"h100": "sm_90a", "a100": "sm_80"}
HEAD = "chip | dtype, precision | hidden_size | kernel | threads | registers | spilled, bytes"


class Assembled(NamedTuple):
    """One kernel, as the assembler tells of it."""

    threads: int
    registers: int
    spilled: int


def assembled(kernel: Ptx, chip: str) -> Assembled:
    text = "\n".join(kernel.lines)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        command = ["ptxas", "-v", f"-arch={ARCHITECTURES[chip]}", str(source), "-o", str(binary)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    threads = _number(r"\.(?:req|max)ntid (\d+)", text)
    stores, loads = (_number(rf"(\d+) bytes spill {what}", told) for what in ("stores", "loads"))
    return Assembled(threads, _number(r"Used (\d+) registers", told), stores + loads)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern!r} in {text[:2000]}"
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="A table in Markdown.")
    parser.add_argument("--chip", nargs="+", choices=CHIPS, default=["h100"])
    parser.add_argument("--hidden-size", nargs="+", type=int, default=[64, 128, 256])
    asked = parser.parse_args()
    print(f"| {HEAD} |\n|{'---|' * len(HEAD.split('|'))}")
    for chip, (dtype, precision), size in itertools.product(
        asked.chip, SETTINGS, asked.hidden_size
    ):
        program = BASE.but(config=LSTMConfig(64, size), dtype=dtype, precision=precision)
        name = dtype if dtype == "bfloat16" else f"{dtype}, {precision}"
        for kernel in compiled(program, chip).kernels:
            which = "forward" if any("ex2." in line for line in kernel.lines) else "backward"  # exp
            found = " | ".join(map(str, assembled(kernel, chip)))
            print(f"| {chip} | {name} | {size} | {which} | {found} |", flush=True)


if __name__ == "__main__":
    main()
