"""GPUs that are not there: the compiler of JAX's CUDA plugin, told of a chip by its description."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from tests.aot.hlo import Hlo
from tests.aot.programs import Program
from tests.aot.requirement import need

need("jax_plugins.xla_cuda12", "aot-gpu")
from jax_plugins import xla_cuda12  # noqa: E402  # pyright: ignore[reportMissingImports]

CHIPS = ("h100", "a100")
KERNEL = "__gpu$xla.gpu.triton"  # the custom call of a Pallas kernel, by Triton

each_chip = pytest.mark.parametrize("chip", CHIPS)


class Compiled(NamedTuple):
    """A program: XLA's text, and that of each Pallas kernel in it in PTX, the assembler of NVIDIA."""

    hlo: Hlo
    kernels: tuple[Ptx, ...]


class Ptx:
    """The text of one kernel."""

    def __init__(self, text: str) -> None:
        self.lines = [line.strip() for line in text.splitlines()]

    @property
    def tf32_products(self) -> int:
        """Products on tensor cores whose operands are rounded to TF32."""
        return self._count(r"mma\S*\.tf32\.tf32")

    @property
    def bf16_products(self) -> int:
        """Products of bfloat16 on tensor cores."""
        return self._count(r"mma\S*\.bf16\.bf16")

    @property
    def loads_in_the_loop(self) -> int:
        """Reads of memory off the core, in one step."""
        first, last = self._loop()
        return self._count(r"ld\.global", self.lines[first:last])

    @property
    def loads_before_the_loop(self) -> int:
        return self._count(r"ld\.global", self.lines[: self._loop()[0]])

    def _count(self, pattern: str, lines: list[str] | None = None) -> int:
        return sum(bool(re.search(pattern, line)) for line in lines or self.lines)

    def _loop(self) -> tuple[int, int]:
        """The first and the last line of the longest loop: the one over time, since it holds all others."""
        labels = {line[:-1]: at for at, line in enumerate(self.lines) if re.match(r"\$\w+:$", line)}
        jumps = (
            (re.search(r"\bbra\S*\s+(\$\w+);", line), at) for at, line in enumerate(self.lines)
        )
        loops = [(labels[jump[1]], at) for jump, at in jumps if jump and labels[jump[1]] < at]
        assert loops, "no loop in a kernel that walks the time axis"
        return max(loops, key=lambda loop: loop[1] - loop[0])


@functools.cache
def device(chip: str) -> Any:
    """The chip, known to the compiler alone."""
    text = (Path(__file__).parent / f"{chip}.txtpb").read_text()
    get = functools.partial(topologies.get_topology_desc, chip, "cuda", target_config=text)
    try:
        found = get(topology="1x1x1")
    except NotImplementedError:  # JAX left the plugin out, since it looks for libraries of CUDA
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
            xla_cuda12.initialize()
        found = get(topology="1x1x1")
    return found.devices[0]


@functools.cache
def compiled(program: Program, chip: str) -> Compiled:
    """A program on one chip."""
    place = SingleDeviceSharding(device(chip))
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), program.arguments()
    )
    lowered = jax.jit(program.function()).trace(*arguments).lower(lowering_platforms=("cuda",))
    with tempfile.TemporaryDirectory() as folder:
        text = lowered.compile(compiler_options={"xla_dump_to": folder}).as_text()
        ptx = [path.read_text() for path in sorted(Path(folder).glob("*.ptx"))]
    assert text is not None
    return Compiled(Hlo(text), tuple(Ptx(t) for t in ptx if re.search(r"\.entry \w*kernel", t)))
