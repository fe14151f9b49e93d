"""`Budget`: limits on memory and work that grow with the size of the file."""

from __future__ import annotations

from ..errors import CheckpointError

# Bytes of unpickled values, beyond 1.25 times the size of the file.
MEMORY = 42 << 20
SPARE_VISITS = 100_000
# Bytes that one expanded tensor (with stride 0) may need beyond the size of the file.
SLACK = 32 << 20
# The limit for all tensors together is larger: views and ties repeat bytes.
TOTAL_SLACK, TOTAL_FACTOR = 1 << 30, 16


class Budget:
    """The memory and work that one file, or one set of shards, may still cost.

    Attributes:
        memory: bytes left for the values of all pickles of the file, several of which may be alive
            at once.
        visits: repeated visits left to values that have several references.
    """

    __slots__ = ("_all_tensors", "_one_tensor", "memory", "visits")

    def __init__(self, file_size: int) -> None:
        self.memory = MEMORY + file_size * 5 // 4
        self.visits = SPARE_VISITS
        self._one_tensor = file_size + SLACK
        self._all_tensors = TOTAL_FACTOR * file_size + TOTAL_SLACK

    def add_file(self, size: int) -> None:
        """Allow for the tensors of another file of `size` bytes."""
        self._one_tensor += size
        self._all_tensors += TOTAL_FACTOR * size

    def spend_on_tensor(self, nbytes: int) -> None:
        """Account for a tensor, or raise `tensor-budget` if it is too large for the file."""
        self._all_tensors -= nbytes
        if nbytes > self._one_tensor or self._all_tensors < 0:
            raise CheckpointError(
                "tensor-budget",
                f"a tensor needs {nbytes} bytes, far more than the file holds; "
                "save expanded tensors after .contiguous() or .clone()",
            )
