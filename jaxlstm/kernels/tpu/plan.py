"""How one call is laid out: sizes filled up to whole tiles, blocks of rows and steps, and what fits in VMEM.

A TPU keeps arrays in tiles of 8 or 16 by 128, so the batch is filled up to a multiple of 16 and each axis of
units to one of 128. What is added is zero, and a unit of which all weights are zero stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.kernels.contract import Shape
from jaxlstm.kernels.tpu.products import parts_for, split
from jaxlstm.precision import Precision

ROWS, LANES, GATES = 16, 128, 4
BLOCK = 128  # rows times steps of a block: what one pass of the input projection multiplies
DTYPES = (jnp.float32, jnp.bfloat16)
V5E_VMEM = 128 * 2**20  # of a v6e as well; what is assumed where no TPU is at hand to ask
USABLE = 0.75  # of it; the rest is the compiler's

Placed = tuple[jax.Array, pl.BlockSpec]  # an operand, and how it comes to the kernel


class Plan(NamedTuple):
    """The shape of one call: T, B, I, H and h's P, all but T filled up, and the blocks.

    Attributes:
      steps: of a block.
      rows: of a block.
      parts: of each number in a product, see :mod:`jaxlstm.kernels.tpu.products`.
    """

    time: int
    batch: int
    features: int
    units: int
    h_features: int
    steps: int
    rows: int
    parts: int
    dtype: Any
    projected: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks of rows, and for each of them blocks of steps, one after the other."""
        return self.batch // self.rows, pl.cdiv(self.time, self.steps)

    @property
    def vmem(self) -> int:
        """About how many bytes of VMEM a kernel of this plan takes, at most."""
        matrices = GATES * self.units * (self.features + self.h_features)
        matrices += self.projected * self.units * self.h_features
        gates = GATES * self.units
        # two buffers of each array over time; gates in scratch, and in the products' terms before their sum
        widths = 2 * (self.features + self.h_features + 2 * gates + LANES) + 8 * gates
        parts = self.parts if self.dtype == jnp.float32 else 1
        return 2 * parts * matrices + 4 * self.rows * self.steps * widths

    def over_time(self, width: int, *, backwards: bool) -> pl.BlockSpec:
        """The block of an array (T, B, width); ``backwards`` begins with the last."""
        last = self.grid[1] - 1
        at = lambda row, block: (last - block if backwards else block, row, 0)  # noqa: E731
        return pl.BlockSpec((self.steps, self.rows, width), at)

    def state(self, width: int) -> pl.BlockSpec:
        """The block of an array (B, width), the same for all steps."""
        return pl.BlockSpec((self.rows, width), lambda row, _: (row, 0))

    def out(self, wanted: Any, width: int, *, backwards: bool) -> tuple[Any, pl.BlockSpec]:
        """A result (T, B, n) or (B, n), filled up to ``width``."""
        shape = Shape((*wanted.shape[:-2], self.batch, width), wanted.dtype)
        over_time = len(wanted.shape) == 3
        return shape, self.over_time(width, backwards=backwards) if over_time else self.state(width)

    def weight(self, matrix: jax.Array, rows: int, columns: int) -> list[Placed]:
        """A weight (in, out), filled up, in the parts that :func:`.products.product` takes."""
        return [resident(part) for part in split(fill(matrix, rows, columns), self.parts)]

    def mask(self, valid: jax.Array, *, backwards: bool) -> Placed:
        """The operand for bool (T, B): 1 or 0, in rows as the state is."""
        rows = fill(valid.astype(jnp.float32)[:, :, None], self.batch, 1)
        return rows, self.over_time(1, backwards=backwards)

    def each_step(self, step: Callable[[Any], None], *, backwards: bool) -> None:
        """Run ``step(t)`` for the steps of the block at hand, t counted within it."""
        block = pl.program_id(1)
        block = self.grid[1] - 1 - block if backwards else block
        count: Any = self.steps
        if self.time % self.steps:  # the last block is short
            count = jnp.minimum(count, self.time - block * self.steps)

        def body(k: Any, carry: None) -> None:
            step(count - 1 - k if backwards else k)
            return carry

        lax.fori_loop(0, count, body, None)


def plan_of(params: Any, inputs: Any, state: Any, precision: Precision) -> Plan | None:
    """The plan for these weights, arrays over time and state; None where there is no kernel.

    There is none for float64 and float16, for an empty batch, and where the weights do not fit in VMEM.
    """
    time, batch, features = inputs.shape
    dtype, units, h_features = state.c.dtype, state.c.shape[1], state.h.shape[1]
    if batch == 0 or dtype not in DTYPES:
        return None
    rows = min(up(batch, ROWS), BLOCK)
    plan = Plan(
        time=time,
        batch=up(batch, rows),
        features=up(features, LANES),
        units=up(units, LANES),
        h_features=up(h_features, LANES),
        steps=min(time, BLOCK // rows),
        rows=rows,
        parts=parts_for(precision),
        dtype=dtype,
        projected="weight_hr" in params,
    )
    return plan if plan.vmem <= vmem() else None


def vmem() -> int:
    """How many bytes of VMEM a kernel may take, on the TPU at hand or else on a v5e."""
    capacity = pltpu.get_tpu_info().vmem_capacity_bytes if pltpu.is_tpu_device() else V5E_VMEM
    return int(USABLE * capacity)


def up(size: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return pl.cdiv(size, unit) * unit


def resident(array: jax.Array) -> Placed:
    """An operand fetched whole, once, before the first step."""
    whole = lambda *_: (0,) * array.ndim  # noqa: E731
    return array, pl.BlockSpec(array.shape, whole, pipeline_mode=pl.Buffered(1))


def call(
    kernel: Callable[..., None],
    plan: Plan,
    operands: dict[str, Placed | list[Placed]],
    out: dict[str, tuple[Any, pl.BlockSpec]],
    scratch: list,
    interpret: bool,
) -> dict[str, jax.Array]:
    """Run ``kernel(operands, out, *scratch)``, of references by name; a weight is several."""
    is_placed = lambda x: isinstance(x, tuple)  # noqa: E731
    arrays, specs = (jax.tree.map(lambda x, k=k: x[k], operands, is_leaf=is_placed) for k in (0, 1))
    return pl.pallas_call(
        kernel,
        out_shape={name: shape for name, (shape, _) in out.items()},
        grid=plan.grid,
        in_specs=[specs],
        out_specs={name: spec for name, (_, spec) in out.items()},
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem()
        ),
        interpret=interpret,
    )(arrays)


def fill(x: jax.Array, *sizes: int) -> jax.Array:
    """The last axes of x filled up with zeros to these sizes."""
    missing = [size - n for size, n in zip(sizes, x.shape[-len(sizes) :], strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + [(0, n) for n in missing])


def cut(x: jax.Array, wanted: Any) -> jax.Array:
    """The inverse of :func:`fill`: rows and columns of the shape ``wanted``."""
    rows, columns = wanted.shape[-2:]
    return x[..., :rows, :columns]


def fill_gates(x: jax.Array, units: int) -> jax.Array:
    """(..., 4H) filled up gate by gate."""
    return fill(x.reshape(*x.shape[:-1], GATES, -1), units).reshape(*x.shape[:-1], GATES * units)


def cut_gates(x: jax.Array, units: int) -> jax.Array:
    """The inverse of :func:`fill_gates`."""
    gates = x.reshape(*x.shape[:-1], GATES, -1)[..., :units]
    return gates.reshape(*x.shape[:-1], GATES * units)
