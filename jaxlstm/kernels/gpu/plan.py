"""How one call is shared out: which rows a program has, how the units are cut, where the weights are."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.experimental.pallas import triton as plgpu

from jaxlstm.kernels.gpu.products import ROWS_OF_TENSOR_CORES, SHORTEST, Weight, is_exact
from jaxlstm.kernels.gpu.tiles import GATES, Tiles, tiles
from jaxlstm.precision import Precision

# Four gates of so many units are one product. The tiles of a step are unrolled: of four times as many, the
# program takes minutes to compile, and by then the plain scan's products fill the chip.
TILE, LARGEST = 64, 256

# What recurrent weights may take to stay on a core over all steps, of its 256 KiB of registers, and of the
# 163 KiB of shared memory of an A100.
RESIDENT_BYTES = 2**17


class Plan(NamedTuple):
    """The shape of one call.

    Attributes:
      rows: the batch, one tile for each program.
      units: hidden_size.
      features: those of h, proj_size or hidden_size.
      resident: whether the recurrent weights stay on the chip over all steps, in registers or shared memory
        as the compiler decides, or are read in each step from the second-level cache.
    """

    rows: Tiles
    units: Tiles
    features: Tiles
    resident: bool

    @property
    def options(self) -> dict[str, Any]:
        """What ``pallas_call`` is told."""
        # a thread for each gate of a tile; one stage, since a step waits for the one before
        params = plgpu.CompilerParams(
            num_warps=max(1, GATES * self.units.width // 32), num_stages=1
        )
        return {"grid": (self.rows.count,), "compiler_params": params}

    def weight(self, ref: Any, rows: Tiles, columns: Tiles) -> Weight:
        """A packed weight (in, out), read here and now where it stays on the chip."""
        return Weight(ref, rows, columns, self.resident)


def plan_of(params: Any, c: Any, precision: Precision) -> Plan:
    """The plan for these weights and a state c (B, H).

    Raises:
      ValueError: more units than there is a program for.
    """
    weight_hh, (batch, hidden_size) = params["weight_hh"], c.shape
    if hidden_size > LARGEST:
        raise ValueError(
            f"backend='pallas' on a GPU takes hidden_size up to {LARGEST}, got {hidden_size}; "
            "use backend='cudnn' or 'scan'"
        )
    exact = is_exact(c.dtype, precision)
    # without tensor cores three tiles are in shared memory at once, which is too much for an A100
    width = TILE // 2 if exact and hidden_size > 2 * TILE else TILE
    units, features = (tiles(size, SHORTEST, width) for size in (hidden_size, weight_hh.shape[1]))
    elements = (GATES + ("weight_hr" in params)) * units.padded * features.padded
    return Plan(
        rows=Tiles(batch, 1 if exact else ROWS_OF_TENSOR_CORES),
        units=units,
        features=features,
        resident=elements * c.dtype.itemsize <= RESIDENT_BYTES,
    )
