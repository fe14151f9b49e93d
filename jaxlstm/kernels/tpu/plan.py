"""The layout of one kernel call: padded sizes, blocks of rows and steps, and the VMEM budget.

A TPU stores arrays in tiles of 8 or 16 by 128. The batch is therefore padded with zeros to a multiple of 16,
and each axis of units to a multiple of 128. A padded unit has zero weights, so it stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.kernels.tpu.products import parts_for, split
from jaxlstm.layer.precision import Precision

ROWS, LANES, GATES = 16, 128, 4
DTYPES = (jnp.float32, jnp.bfloat16)

BLOCK = 128
"""Rows times steps of a block, which is the number of rows in one product of the input projection."""

V5E_VMEM = 128 * 2**20
"""Bytes of VMEM of a v5e or v6e, assumed if no TPU is attached."""

USABLE = 0.75
"""Fraction of VMEM for the kernel; the compiler needs the rest."""

Placed = tuple[jax.Array, pl.BlockSpec]
"""An operand and the blocks in which the kernel gets it."""


class Plan(NamedTuple):
    """The sizes of one call. ``batch`` and the sizes of the feature axes are padded.

    A block has ``steps`` time steps of ``rows`` sequences. ``parts`` is the number of parts in a product, see
    :mod:`jaxlstm.kernels.tpu.products`.
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
        """Number of blocks of rows and of steps. The blocks of steps run in sequence."""
        return self.batch // self.rows, pl.cdiv(self.time, self.steps)

    @property
    def vmem(self) -> int:
        """Estimated upper bound of the VMEM that the kernel uses, in bytes."""
        matrices = GATES * self.units * (self.features + self.h_features)
        matrices += self.projected * self.units * self.h_features
        gates = GATES * self.units
        # Two buffers of each array over time. The gates also occupy scratch memory and the terms of products.
        widths = 2 * (self.features + self.h_features + 2 * gates + LANES) + 8 * gates
        parts = self.parts if self.dtype == jnp.float32 else 1
        return 2 * parts * matrices + 4 * self.rows * self.steps * widths

    def over_time(self, width: int, *, backwards: bool) -> pl.BlockSpec:
        """Return the blocks of an array (T, B, width), in reverse order if ``backwards``."""
        last = self.grid[1] - 1
        at = lambda row, block: (last - block if backwards else block, row, 0)  # noqa: E731
        return pl.BlockSpec((self.steps, self.rows, width), at)

    def state(self, width: int) -> pl.BlockSpec:
        """Return the block of an array (B, width), the same for all steps."""
        return pl.BlockSpec((self.rows, width), lambda row, _: (row, 0))

    def out(self, shape: Any, width: int, *, backwards: bool) -> tuple[Any, pl.BlockSpec]:
        """Return the padded shape and the blocks of a result (T, B, n) or (B, n)."""
        padded = jax.ShapeDtypeStruct((*shape.shape[:-2], self.batch, width), shape.dtype)
        over_time = len(shape.shape) == 3
        return padded, self.over_time(width, backwards=backwards) if over_time else self.state(width)

    def weight(self, matrix: jax.Array, rows: int, columns: int) -> list[Placed]:
        """Return a weight (in, out), padded and split for :func:`.products.product`."""
        return [resident(part) for part in split(pad(matrix, rows, columns), self.parts)]

    def mask(self, valid: jax.Array, *, backwards: bool) -> Placed:
        """Return a bool mask (T, B) as an operand of ones and zeros (T, B, 1)."""
        rows = pad(valid.astype(jnp.float32)[:, :, None], self.batch, 1)
        return rows, self.over_time(1, backwards=backwards)

    def each_step(self, step: Callable[[Any], None], *, backwards: bool) -> None:
        """Run ``step(t)`` for the time steps of the current block; t is the index within the block."""
        block = pl.program_id(1)
        block = self.grid[1] - 1 - block if backwards else block
        count: Any = self.steps
        if self.time % self.steps:  # the last block has fewer steps
            count = jnp.minimum(count, self.time - block * self.steps)

        def body(k: Any, carry: None) -> None:
            step(count - 1 - k if backwards else k)
            return carry

        lax.fori_loop(0, count, body, None)


def plan_call(params: Any, inputs: Any, state: Any, precision: Precision) -> Plan | None:
    """Return the plan of a call, or None if the kernel does not support it.

    The kernel does not support float64 and float16, an empty batch, and weights that exceed VMEM.
    """
    time, batch, features = inputs.shape
    dtype, units, h_features = state.c.dtype, state.c.shape[1], state.h.shape[1]
    if batch == 0 or dtype not in DTYPES:
        return None
    rows = min(round_up(batch, ROWS), BLOCK)
    plan = Plan(
        time=time,
        batch=round_up(batch, rows),
        features=round_up(features, LANES),
        units=round_up(units, LANES),
        h_features=round_up(h_features, LANES),
        steps=min(time, BLOCK // rows),
        rows=rows,
        parts=parts_for(precision),
        dtype=dtype,
        projected="weight_hr" in params,
    )
    return plan if plan.vmem <= vmem() else None


def vmem() -> int:
    """Return the bytes of VMEM that a kernel may use, on the attached TPU or otherwise on a v5e."""
    capacity = pltpu.get_tpu_info().vmem_capacity_bytes if pltpu.is_tpu_device() else V5E_VMEM
    return int(USABLE * capacity)


def round_up(size: int, unit: int) -> int:
    """Round up to a multiple of ``unit``."""
    return pl.cdiv(size, unit) * unit


def resident(array: jax.Array) -> Placed:
    """Return an operand that is fetched whole, once, before the first step."""
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
    """Run ``kernel(operands, out, *scratch)`` over the grid of a plan.

    The kernel gets references by name. A weight is a list of references, one for each part.
    """
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


def pad(x: jax.Array, *sizes: int) -> jax.Array:
    """Pad the last axes of x with zeros to the given sizes."""
    missing = [size - n for size, n in zip(sizes, x.shape[-len(sizes) :], strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + [(0, n) for n in missing])


def crop(x: jax.Array, shape: Any) -> jax.Array:
    """Undo :func:`pad` in the last two axes."""
    rows, columns = shape.shape[-2:]
    return x[..., :rows, :columns]


def pad_gates(x: jax.Array, units: int) -> jax.Array:
    """Pad each gate of (..., 4H) to ``units``."""
    return pad(x.reshape(*x.shape[:-1], GATES, -1), units).reshape(*x.shape[:-1], GATES * units)


def crop_gates(x: jax.Array, units: int) -> jax.Array:
    """Undo :func:`pad_gates`."""
    gates = x.reshape(*x.shape[:-1], GATES, -1)[..., :units]
    return gates.reshape(*x.shape[:-1], GATES * units)
