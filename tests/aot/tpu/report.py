"""The compiler's own figures for the kernels and the plain scan: ``python -m tests.aot.tpu.report``.

Bytes through HBM are counted by :mod:`tests.aot.traffic`. Cycles of the plain scan are those that XLA writes
beside each instruction, waiting for memory included; of a kernel it writes none, and the bundles are
counted that are scheduled, one a cycle, without waiting. Nothing here is a measurement.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import tempfile
from pathlib import Path

DUMP = Path(tempfile.mkdtemp(prefix="llo-"))
os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true"

from jaxlstm import LSTMConfig  # noqa: E402
from tests.aot.hlo import Computation, Hlo  # noqa: E402
from tests.aot.programs import Program  # noqa: E402
from tests.aot.tpu.chips import CHIPS, compiled  # noqa: E402
from tests.aot.traffic import hbm_bytes  # noqa: E402

BASE = Program("B=32, I=H=512", LSTMConfig(512, 512), batch=32)
SETTINGS = [("float32", "highest"), ("float32", "default"), ("bfloat16", "highest")]
BUNDLE = re.compile(r"^ *(?:0x)?[0-9a-f]+ *(?:[A-Z]{2})?: *(>*) *\{")


def cycles(hlo: Hlo, time: int) -> float:
    """Per step: of what is in loops once, of what is outside its share."""
    total = 0.0
    for computation in hlo.computations.values():
        if not computation.name.startswith(("fused", "bitcast")):
            share = 1 if computation.name in hlo.in_loops else 1 / time
            total += share * _estimated(computation)
    return total


def _estimated(computation: Computation) -> int:
    lines = (i.line for i in computation.instructions if i.op != "while")
    return sum(int(n) for line in lines for n in re.findall(r'"estimated_cycles":"(\d+)"', line))


def kernel_bundles(hlo: Hlo, time: int) -> float:
    """Per step: of the loop over steps its body, of the grid over blocks its share."""
    total = 0.0
    for computation in hlo.computations.values():
        for i in computation.instructions:
            if "tpu_custom_call" in i.line:
                (path,) = DUMP.glob(f"*-{i.name}-*[0-9]-final_bundles.txt")
                depths = [m[1] for line in path.open() if (m := BUNDLE.match(line))]
                steps = min(time, 4)  # of a block, at B = 32
                total += depths.count(">>") + depths.count(">") / steps
    return total


def line(program: Program, chip: str) -> str:
    """One row of the table."""
    figures = []
    for backend in ("scan", "pallas"):
        for path in DUMP.iterdir():
            path.unlink()
        hlo = compiled(program.but(backend=backend), chip)
        found = cycles(hlo, program.time)
        found += kernel_bundles(hlo, program.time) if backend == "pallas" else 0
        figures.append((hbm_bytes(hlo) / program.time / 1024, found))
    (scan_kib, scan_cycles), (kernel_kib, kernel_cycles) = figures
    what = "training" if program.gradient else "forward"
    name = program.dtype if program.dtype == "bfloat16" else f"float32, {program.precision}"
    return (
        f"| {chip} | {what} | {program.time} | {name} | {scan_kib:.0f} | {kernel_kib:.0f} "
        f"| {kernel_kib / scan_kib:.2f} | {scan_cycles:,.0f} | {kernel_cycles:,.0f} |"
    )


HEAD = "chip | pass | T | dtype, precision | scan KiB | kernel KiB | ratio | scan cycles | kernel cycles"


def main() -> None:
    parser = argparse.ArgumentParser(description="A table in Markdown, of sizes per step.")
    parser.add_argument("--chip", nargs="+", choices=CHIPS, default=CHIPS)
    parser.add_argument("--time", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--training", action="store_true", help="forwards and backwards; minutes")
    asked = parser.parse_args()
    print(f"| {HEAD} |\n|{'---|' * len(HEAD.split('|'))}")
    for chip, time, (dtype, precision) in itertools.product(asked.chip, asked.time, SETTINGS):
        how = {"time": time, "dtype": dtype, "precision": precision}
        print(line(BASE.but(gradient=asked.training, **how), chip), flush=True)


if __name__ == "__main__":
    main()
