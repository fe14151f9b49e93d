"""The fields of a `PackedSequence` in a trace: rows of a padded batch, and their batch sizes."""

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
        """Return True where a step is within the length of its sequence, with the axes of a padded tensor."""
        steps = torch.arange(self.steps)
        return steps < self.lengths[:, None] if self.batch_first else steps[:, None] < self.lengths


class _Longest(torch.SymInt):
    """The number of steps of the longest sequence, which `pad_packed_sequence` compares with total_length."""

    def __gt__(self, other: Any) -> Any:
        if sys._getframe(1).f_code is rnn.pad_packed_sequence.__code__:
            # The operator checks it when the lengths are known.
            return False
        return super().__gt__(other)

    __hash__ = None  # type: ignore[assignment]


class PackedRows:
    """`PackedSequence.data` inside the mode: the rows of a packed batch, held as a padded tensor.

    Functions that work row by row are applied. Any other use, in which the order or the number of rows
    matters, raises an error.
    """

    def __init__(self, padded: Tensor, batch: Batch, *, filled: bool = False) -> None:
        self.padded, self.batch = padded, batch
        # The steps after the end of a sequence repeat its first step.
        self._filled = filled

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise refusal(func, "is used outside of the trace")

    def flat(self) -> Tensor:
        """Return the rows as (steps * batch, ...), without padding on which a function may be undefined."""
        if self._filled:
            return self.padded.flatten(0, 1)
        # Anew each time: a result of a region without gradient, or of a subgraph, is of no use outside.
        valid = self.batch.valid()
        valid = valid.reshape(*valid.shape, *(1,) * (self.padded.ndim - 2))
        first = self.padded.narrow(1 if self.batch.batch_first else 0, 0, 1)
        return torch.where(valid, self.padded, first).flatten(0, 1)

    @property
    def ndim(self) -> int:
        """Number of axes of the rows."""
        return self.padded.ndim - 1

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def shape(self) -> _RowShape:
        """The shape, in which the number of rows is unknown."""
        return _RowShape((None, *self.padded.shape[2:]))

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "device", "is_cuda", "requires_grad"):
            return getattr(self.padded, name)
        method = getattr(Tensor, name, None)
        if not callable(method):
            raise refusal(f"attribute {name}", "is not known")
        return lambda *args, **kwargs: on_rows(method, (self, *args), kwargs)

    def __len__(self) -> NoReturn:
        raise refusal("len", "is the sum of the lengths")

    def __iter__(self) -> NoReturn:
        raise refusal("iteration", "depends on the order of the rows")


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: on_rows(getattr(Tensor, name), (self, *args), {})


# Python looks operators up in the class.
for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul"),
    *("floordiv", "rfloordiv", "mod", "rmod", "and", "rand", "or", "ror", "xor", "rxor", "invert"),
    *("neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "iadd", "isub", "imul"),
):
    setattr(PackedRows, f"__{_name}__", _operator(f"__{_name}__"))


class _RowShape(tuple):
    """The shape of `PackedRows`, whose first size is unknown."""

    def __getitem__(self, index: Any) -> Any:
        sizes = super().__getitem__(index)
        if sizes is None or (isinstance(sizes, tuple) and None in sizes):
            raise refusal("size of the first axis", "is the sum of the lengths")
        return sizes

    def __iter__(self) -> Iterator[Any]:
        return iter([self[place] for place in range(len(self))])


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

    def __getitem__(self, index: Any) -> Any:
        if type(index) is not int or index != 0:
            raise refusal(f"batch_sizes[{index}]", "depends on the lengths")
        size = self.batch.size
        return _Count(size.node) if isinstance(size, torch.SymInt) else _KnownCount(size)

    def __len__(self) -> NoReturn:
        raise refusal("len(batch_sizes)", "has no value in the trace, but batch_sizes.shape[0] has")

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the number of steps."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def shape(self) -> tuple[Any, ...]:
        """The number of steps."""
        return (self.batch.steps,)

    def to(self, *args: Any, **kwargs: Any) -> BatchSizes:
        """Return the same sizes."""
        return self

    cpu = to

    def __getattr__(self, name: str) -> NoReturn:
        raise refusal(f"batch_sizes.{name}", "depends on the lengths")


def refusal(what: Any, why: str) -> ProgramError:
    """Return the error for a use of the fields that has no meaning for padded rows."""
    name = what if isinstance(what, str) else getattr(what, "__name__", what)
    return ProgramError(
        "unsupported-operator",
        "the module uses the fields of a PackedSequence, which a program holds as a padded batch: "
        f"{name} {why}. Functions that work row by row, such as linear, dropout or tanh, are supported on "
        "PackedSequence.data. Call pad_packed_sequence before other functions",
    )


# Functions of each element, and functions whose other tensors are weights.
_OF_ELEMENTS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "div", "truediv", "rtruediv", "pow", "rpow", "neg", "abs"),
    *("floordiv", "rfloordiv", "mod", "rmod", "and", "rand", "or", "ror", "xor", "rxor", "invert"),
    *("floor_divide", "remainder", "logical_and", "logical_or", "logical_xor", "logical_not"),
    *("exp", "log", "log1p", "sqrt", "rsqrt", "square", "reciprocal", "sin", "cos", "tanh", "sigmoid"),
    *("relu", "relu6", "gelu", "elu", "selu", "celu", "silu", "mish", "leaky_relu", "softplus", "softsign"),
    *("hardtanh", "hardsigmoid", "hardswish", "logsigmoid", "clamp", "maximum", "minimum", "where"),
    *("eq", "ne", "lt", "le", "gt", "ge", "masked_fill", "dropout", "alpha_dropout"),
    *("to", "type_as", "float", "double", "half", "bfloat16", "long", "int", "cpu"),
    *("contiguous", "clone", "detach"),
)
_WITH_WEIGHTS = ("linear", "matmul", "mm", "embedding", "layer_norm", "batch_norm", "prelu")
# Functions along an axis -> position of the argument dim.
_ALONG_AXIS = {
    **dict.fromkeys(("softmax", "log_softmax", "sum", "mean", "amax", "max", "argmax", "logsumexp"), 1),
    **dict.fromkeys(("cat", "concat", "glu", "squeeze", "unsqueeze"), 1),
    **dict.fromkeys(("chunk", "split", "normalize", "norm"), 2),
}


def on_rows(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a function of `PackedRows` that works row by row.

    Raises:
        ProgramError: it may not.
    """
    leaves = _pytree.tree_leaves((args, kwargs))
    rows = [leaf for leaf in leaves if isinstance(leaf, PackedRows)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not rows or any(other.batch is not rows[0].batch for other in rows):
        raise refusal(func, "is called on other fields, or on the rows of two batches")
    name = getattr(func, "__name__", "")
    name = name[2:-2] if name.startswith("__") else name
    if kwargs.get("inplace") or "out" in kwargs or not _is_of_rows(name, args, kwargs, rows, tensors):
        raise refusal(func, "may depend on the order or number of the rows, or changes them in place")
    axes = rows[0].padded.shape[:2]
    args, kwargs = _pytree.tree_map_only(PackedRows, PackedRows.flat, (args, kwargs))
    return _pytree.tree_map_only(
        Tensor,
        lambda result: PackedRows(result.unflatten(0, axes), rows[0].batch, filled=True),
        func(*args, **kwargs),
    )


def _is_of_rows(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    every: Sequence[PackedRows],
    tensors: Sequence[Tensor],
) -> bool:
    """Return True if a function computes each row from the same row of its arguments."""
    rows = every[0]
    if any(other.ndim != rows.ndim for other in every):
        return False  # They would be broadcast against each other's rows.
    if name in _OF_ELEMENTS:
        # torch.where with only a condition returns the places where it holds.
        return all(tensor.ndim < rows.ndim for tensor in tensors) and (name != "where" or len(args) == 3)
    if not args:
        return False
    if name == "getitem":
        return args[0] is rows and _keeps_rows(args[1], rows.ndim)
    if name in _ALONG_AXIS:
        place = _ALONG_AXIS[name]
        dims = kwargs.get("dim", args[place] if len(args) > place else None)
        dims = dims if isinstance(dims, tuple | list) else (dims,)
        count = rows.ndim + (name == "unsqueeze")
        return not tensors and dims != () and all(type(dim) is int and dim % count != 0 for dim in dims)
    if name not in _WITH_WEIGHTS or args[0] is not rows or len(every) > 1:
        return False
    if name in ("matmul", "mm"):
        return rows.ndim == 2 and isinstance(args[1], Tensor) and args[1].ndim == 2
    if name == "layer_norm":
        return len(args[1]) < rows.ndim
    training = kwargs.get("training", args[5] if len(args) > 5 else None)
    return name != "batch_norm" or (rows.ndim == 2 and training is False)


def _keeps_rows(index: Any, ndim: int) -> bool:
    """Return True for ``[:, ...]`` and ``[..., i]``, which leave the first axis as it is."""
    index = index if isinstance(index, tuple) else (index,)
    plain = all(isinstance(part, int | slice | None) or part is Ellipsis for part in index)
    return plain and (index[0] == slice(None) or (index[0] is Ellipsis and len(index) <= ndim))
