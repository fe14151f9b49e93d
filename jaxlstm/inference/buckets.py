"""Which shapes are compiled: few enough to compile ahead of time, close enough to waste little.

Lengths and batches are rounded up to a power of two, and never above the caller's own limit. The shortest
length is :data:`jaxlstm.inference.program.CHUNK`, since a program works through time in chunks of that many
steps and stops at the end of the longest sequence: a length bucket costs memory, not time.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlstm.inference.program import CHUNK


def length_buckets(max_length: int) -> tuple[int, ...]:
    """Lengths to compile, ascending: at most ceil(log2(max_length)) + 1, each a multiple of CHUNK.

    >>> length_buckets(100)
    (16, 32, 64, 112)
    """
    last = -(-max_length // CHUNK) * CHUNK
    return tuple(_doublings(CHUNK, last))


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """Batch sizes to compile, ascending: 1, 2, 4 and so on up to ``max_batch`` itself.

    >>> batch_buckets(6)
    (1, 2, 4, 6)
    """
    return tuple(_doublings(1, max_batch))


def bucket_of(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``size``, which must not be above the last one."""
    return next(bucket for bucket in buckets if bucket >= size)


def _doublings(first: int, last: int) -> list[int]:
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


@dataclass(frozen=True)
class Stats:
    """What a Runner has done so far.

    Args:
      compilations: programs compiled.
      calls: programs run, by single calls, ``map`` and streams together.
      valid_steps: time steps of the sequences that were given, summed over the sequences.
      computed_steps: time steps computed for them, padding included.
    """

    compilations: int = 0
    calls: int = 0
    valid_steps: int = 0
    computed_steps: int = 0

    @property
    def padding_waste(self) -> float:
        """Share of the computed time steps that were padding, from 0 to 1."""
        return 1 - self.valid_steps / self.computed_steps if self.computed_steps else 0.0
