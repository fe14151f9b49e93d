"""The fields of a `PackedSequence` in a trace: a padded batch, or torch's rows where a model uses them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.utils import rnn
from torch.utils import _pytree

from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2.trace.fixed_values import changes_in_place


class Batch:
    """A packed batch: the lengths of its sequences, and the axes of its padded tensors.

    Attributes:
        lengths: decreasing lengths, (batch,).
        size, steps: number of sequences, and of steps of the padded tensors.
        batch_first: the first axis of the padded tensors is the batch.
    """

    def __init__(self, padded: Tensor, lengths: Tensor, batch_first: bool) -> None:
        self.lengths, self.batch_first = lengths, batch_first
        self.steps: Any
        self.size, steps = padded.shape[:2] if batch_first else padded.shape[1::-1]
        self.steps = _Longest(steps.node) if isinstance(steps, torch.SymInt) else steps

    def valid(self) -> Tensor:
        """Return True where a step is within the length of its sequence, (steps, batch)."""
        return torch.arange(self.steps)[:, None] < self.lengths

    def rows(self, padded: Tensor) -> Tensor:
        """Return the valid steps of a padded tensor in torch's order: first the first of each sequence."""
        rows = (padded.transpose(0, 1) if self.batch_first else padded)[self.valid()]
        torch._check(rows.shape[0] >= 1)
        return rows

    def padded(self, rows: Tensor) -> Tensor:
        """Return rows as a padded tensor."""
        valid = self.valid().reshape(self.steps, self.size, *(1,) * (rows.ndim - 1))
        padded = rows.new_zeros(self.steps, self.size, *rows.shape[1:]).masked_scatter(valid, rows)
        return padded.transpose(0, 1) if self.batch_first else padded


class _Longest(torch.SymInt):
    """The number of steps of the longest sequence, which `pad_packed_sequence` compares with total_length."""

    def __gt__(self, other: Any) -> Any:
        if sys._getframe(1).f_code is rnn.pad_packed_sequence.__code__:
            # The operator checks it when the lengths are known.
            return False
        return super().__gt__(other)

    __hash__ = None  # type: ignore[assignment]


class PackedRows:
    """`PackedSequence.data` inside the mode, held as a padded tensor. Functions get its rows."""

    def __init__(self, padded: Tensor, batch: Batch) -> None:
        self._padded, self.batch = padded, batch
        self._rows: list[Tensor] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise refusal(func, "is used outside of the trace")

    @property
    def padded(self) -> Tensor:
        """The padded tensor."""
        if any(rows._version for rows in self._rows):
            raise refusal("it", "is changed in place")
        return self._padded

    def rows(self) -> Tensor:
        """Return the rows."""
        # Anew each time: a result of a region without gradient, or of a subgraph, is of no use outside.
        self._rows.append(self.batch.rows(self.padded))
        return self._rows[-1]

    def dim(self) -> int:
        """Return the number of axes."""
        return self._padded.ndim - 1

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one size of it."""
        if dim is None or dim % self.dim() == 0:
            return self.rows().size() if dim is None else self.rows().size(dim)
        return self._padded.shape[dim % self.dim() + 1]

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "device", "is_cuda", "requires_grad"):
            return getattr(self._padded, name)
        method = getattr(Tensor, name, None)
        if not callable(method) or name in ("tolist", "numpy"):  # The trace replaces these in its classes.
            return getattr(self.rows(), name)
        return lambda *args, **kwargs: on_rows(method, (self, *args), kwargs)

    def __len__(self) -> int:
        return len(self.rows())

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows())


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: on_rows(getattr(Tensor, name), (self, *args), {})


# Python looks operators up in the class.
for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul"),
    *("floordiv", "rfloordiv", "mod", "rmod", "and", "rand", "or", "ror", "xor", "rxor", "invert"),
    *("neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "iadd", "isub", "imul"),
):
    setattr(PackedRows, f"__{_name}__", _operator(f"__{_name}__"))


class _Count(torch.SymInt):
    """The number of sequences; a tensor in torch."""

    def item(self) -> torch.SymInt:
        """Return the number."""
        return self

    def __int__(self) -> NoReturn:
        # It would fix the number. The export replaces the function int in the model's file instead.
        raise GuardOnDataDependentSymNode(self.node.expr, "int(batch_sizes[0])")


class _KnownCount(int):
    """The number of sequences where it is fixed."""

    item = int.__int__


class BatchSizes:
    """`PackedSequence.batch_sizes` inside the mode. Its first element is the number of sequences."""

    dtype, device = torch.int64, torch.device("cpu")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    __torch_function__ = PackedRows.__torch_function__

    def tensor(self) -> Tensor:
        """Return the number of sequences at each step."""
        return self.batch.valid().sum(1)

    def __getitem__(self, index: Any) -> Any:
        if type(index) is not int or index != 0:
            return self.tensor()[index]
        size = self.batch.size
        return _Count(size.node) if isinstance(size, torch.SymInt) else _KnownCount(size)

    def __len__(self) -> int:
        return len(self.tensor())

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor())

    @property
    def shape(self) -> tuple[Any, ...]:
        """The number of steps."""
        return (self.batch.steps,)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the number of steps."""
        return self.shape if dim is None else self.shape[dim]

    def to(self, *args: Any, **kwargs: Any) -> BatchSizes:
        """Return the same sizes."""
        return self

    cpu = to

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor(), name)


def refusal(what: Any, why: str) -> ProgramError:
    """Return the error for a use of the fields that a trace cannot follow."""
    name = what if isinstance(what, str) else getattr(what, "__name__", what)
    return ProgramError(
        "unsupported-operator",
        f"an export cannot follow this use of the fields of a PackedSequence: {name} {why}. Call "
        "pad_packed_sequence before it",
    )


def as_tensors(tree: Any) -> Any:
    """Return the arguments with torch's tensors instead of the fields."""
    tree = _pytree.tree_map_only(PackedRows, PackedRows.rows, tree)
    return _pytree.tree_map_only(BatchSizes, BatchSizes.tensor, tree)


def on_rows(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a function of the fields."""
    name = getattr(func, "__name__", "")
    if name == "dropout" and args and not kwargs.get("training", args[2] if len(args) > 2 else True):
        return args[0]
    if changes_in_place(name, kwargs):
        raise refusal(name, "changes the rows in place")
    return func(*as_tensors(args), **as_tensors(kwargs))
