"""Buckets: the lengths and batch sizes for which a Runner compiles executables.

Lengths and batch sizes are rounded up to a power of two, and never above the caller's own limit. The shortest
length is :data:`SHORTEST`. Computation stops at the end of the longest sequence, so a long bucket costs
memory but no time.
"""

from __future__ import annotations

SHORTEST = 16


def length_buckets(max_length: int) -> tuple[int, ...]:
    """Return the lengths to compile, ascending: powers of two from SHORTEST, and ``max_length`` as the last.

    >>> length_buckets(100)
    (16, 32, 64, 100)
    """
    return tuple(_doublings(SHORTEST, max_length))


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes to compile, ascending: powers of two, and ``max_batch`` as the last.

    >>> batch_buckets(6)
    (1, 2, 4, 6)
    """
    return tuple(_doublings(1, max_batch))


def bucket_of(size: int, buckets: tuple[int, ...]) -> int:
    """Return the smallest bucket that holds ``size``, which must not exceed the last bucket."""
    return next(bucket for bucket in buckets if bucket >= size)


def _doublings(first: int, last: int) -> list[int]:
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]
