"""`PackedSequences`: a mode in which torch's packed sequences are padded batches with lengths.

Inside the mode, the functions of ``torch.nn.utils.rnn`` and the recurrent layers of torch run unmodified. The
four C++ functions below them are replaced: a `PackedSequence` then holds `PackedRows` as ``data`` and
`BatchSizes` as ``batch_sizes``, and a recurrence becomes one operator of `jaxlstm_converters.pt2.packed`.
The mode is local to its thread, and needs no name of a module to be replaced.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2 import packed

_OPERATORS = torch.ops.jaxlstm


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
        self._padded, self._batch = padded, batch
        # The steps after the end of a sequence repeat its first step.
        self._filled = filled

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise _refusal(func, "is used outside of the trace")

    def _flat(self) -> Tensor:
        """Return the rows as (steps * batch, ...), without padding on which a function may be undefined."""
        if self._filled:
            return self._padded.flatten(0, 1)
        # Anew each time: a result of a region without gradient, or of a subgraph, is of no use outside.
        valid = self._batch.valid()
        valid = valid.reshape(*valid.shape, *(1,) * (self._padded.ndim - 2))
        first = self._padded.narrow(1 if self._batch.batch_first else 0, 0, 1)
        return torch.where(valid, self._padded, first).flatten(0, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype."""
        return self._padded.dtype

    @property
    def device(self) -> torch.device:
        """The device."""
        return self._padded.device

    @property
    def is_cuda(self) -> bool:
        """False."""
        return False

    @property
    def requires_grad(self) -> bool:
        """True if the rows have a gradient."""
        return self._padded.requires_grad

    @property
    def ndim(self) -> int:
        """Number of axes of the rows."""
        return self._padded.ndim - 1

    def dim(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def shape(self) -> _RowShape:
        """The shape, in which the number of rows is unknown."""
        return _RowShape((None, *self._padded.shape[2:]))

    def __getattr__(self, name: str) -> Any:
        method = getattr(Tensor, name, None)
        if not callable(method):
            raise _refusal(f"attribute {name}", "is not known")
        return lambda *args, **kwargs: on_rows(method, (self, *args), kwargs)

    def __len__(self) -> NoReturn:
        raise _refusal("len", "is the sum of the lengths")

    def __iter__(self) -> NoReturn:
        raise _refusal("iteration", "depends on the order of the rows")


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
            raise _refusal("size of the first axis", "is the sum of the lengths")
        return sizes

    def __iter__(self) -> Iterator[Any]:
        return iter([self[place] for place in range(len(self))])


class BatchSizes:
    """`PackedSequence.batch_sizes` inside the mode. Its first element is the number of sequences."""

    dtype, device = torch.int64, torch.device("cpu")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    __torch_function__ = PackedRows.__torch_function__

    def __getitem__(self, index: Any) -> Any:
        if type(index) is not int or index != 0:
            raise _refusal(f"batch_sizes[{index}]", "depends on the lengths")
        return self._batch.size

    def size(self, dim: int) -> Any:
        """Return the number of steps."""
        return self.shape[dim]

    @property
    def shape(self) -> tuple[Any, ...]:
        """The number of steps."""
        return (self._batch.steps,)

    def cpu(self) -> BatchSizes:
        """Return the same sizes."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchSizes:
        """Return the same sizes."""
        return self

    def __getattr__(self, name: str) -> NoReturn:
        raise _refusal(f"batch_sizes.{name}", "depends on the lengths")


def _refusal(what: Any, why: str) -> ProgramError:
    name = what if isinstance(what, str) else getattr(what, "__name__", what)
    return ProgramError(
        "unsupported-operator",
        "the module uses the fields of a PackedSequence, which a program holds as a padded batch: "
        f"{name} {why}. Functions that work row by row, such as linear, dropout or tanh, are supported on "
        "PackedSequence.data. Call pad_packed_sequence before other functions",
    )


class HostLengths(Sequence[Any]):
    """The result of ``lengths.tolist()`` or ``lengths.numpy()`` inside the mode.

    `pack_padded_sequence` takes the tensor back. Any other use reads the elements.
    """

    def __init__(self, tensor: Tensor, *, is_list: bool) -> None:
        self.tensor, self._is_list = tensor, is_list

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class for isinstance: a model may ask for a list. C code does not take it for one."""
        return list if self._is_list else HostLengths

    @functools.cached_property
    def _items(self) -> list[Any]:
        return [element.item() for element in self.tensor]

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def tolist(self) -> HostLengths:
        """Return the lengths as a list."""
        return HostLengths(self.tensor, is_list=True)


_FULL = "the longest of the packed sequences must be as long as its padding: cut the inputs after it"


def _pack(input: Tensor, lengths: Tensor, batch_first: bool, cut: bool) -> tuple[Any, Any]:
    if cut:
        padded = _OPERATORS.pack_padded(input, lengths, batch_first)
    else:
        padded = input.clone()
        torch.ops.aten._assert_async.msg(lengths[0] == input.shape[1 if batch_first else 0], _FULL)
    batch = Batch(padded, lengths.clone(), batch_first)  # The model may change its lengths in place.
    return PackedRows(padded, batch), BatchSizes(batch)


def _pad(
    data: PackedRows, batch_sizes: BatchSizes, batch_first: bool, padding_value: float, total_length: Any
) -> tuple[Tensor, Tensor]:
    batch = _batch_of(data, batch_sizes)
    padded, steps = data._padded, None if total_length is batch.steps else total_length
    padded = _OPERATORS.pad_packed(padded, batch.lengths, batch.batch_first, float(padding_value), steps)
    return (padded if batch_first == batch.batch_first else padded.transpose(0, 1)), batch.lengths.clone()


def _batch_of(data: Any, batch_sizes: Any) -> Batch:
    if not isinstance(data, PackedRows) or not isinstance(batch_sizes, BatchSizes):
        raise _refusal("a PackedSequence", "was made of another tensor than PackedSequence.data")
    if data._batch is not batch_sizes._batch:
        raise _refusal("a PackedSequence", "was made of the fields of two others")
    return data._batch


def _recurrence(name: str) -> Callable[..., Any]:
    operator = getattr(_OPERATORS, f"packed_{name}")

    def run(data: Any, batch_sizes: Any, hx: Any, params: Any, *settings: Any) -> Any:
        batch = _batch_of(data, batch_sizes)
        hx = list(hx) if isinstance(hx, tuple | list) else [hx]
        arguments = (batch.lengths, hx, list(params), *settings, batch.batch_first)
        outputs, *states = operator(data._padded, *arguments)
        return PackedRows(outputs, batch), *states

    return run


def _as_tensor(data: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> Tensor | None:
    """Return lengths from the host, or a list of numbers in the trace, as a tensor; None for other data."""
    if isinstance(data, HostLengths):
        return data.tensor.clone() if dtype is None else data.tensor.to(dtype)
    if (
        not isinstance(data, list)
        or not all(map(_is_number, data))
        or all(type(item) is int for item in data)
    ):
        return None
    items = [torch.scalar_tensor(item, dtype=torch.int64) if _is_size(item) else item for item in data]
    stacked = torch.stack(items).detach()
    return stacked if dtype is None else stacked.to(dtype)


def _is_size(item: Any) -> bool:
    return type(item) is int or isinstance(item, torch.SymInt)


def _is_number(item: Any) -> bool:
    return _is_size(item) or (isinstance(item, Tensor) and item.ndim == 0)


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
    if not rows or any(other._batch is not rows[0]._batch for other in rows):
        raise _refusal(func, "is called on other fields, or on the rows of two batches")
    name = getattr(func, "__name__", "")
    name = name[2:-2] if name.startswith("__") else name
    if kwargs.get("inplace") or "out" in kwargs or not _is_of_rows(name, args, kwargs, rows, tensors):
        raise _refusal(func, "may depend on the order or number of the rows, or changes them in place")
    axes = rows[0]._padded.shape[:2]
    args, kwargs = _pytree.tree_map_only(PackedRows, PackedRows._flat, (args, kwargs))
    return _pytree.tree_map_only(
        Tensor,
        lambda result: PackedRows(result.unflatten(0, axes), rows[0]._batch, filled=True),
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
        # torch.where of a condition alone gives the places where it holds.
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


_FUNCTIONS = {"_pad_packed_sequence": _pad, **{name: _recurrence(name) for name in packed.STATES}}
_CONSTRUCTORS = ("as_tensor", "tensor")


class PackedSequences(TorchFunctionMode):
    """The mode; see the module.

    Attributes:
        cut: a packed batch ends after its longest sequence, as in torch. Its number of steps is then unknown
            in the trace, and a condition about it cannot be decided. Otherwise the batch ends with its
            padding, and the program requires that it is as long as its longest sequence.
        host: lists and arrays of lengths stand for their tensor.
        batches, lists: number of packed batches, and of lists and arrays of lengths, so far.
    """

    def __init__(self, *, cut: bool, host: bool = True) -> None:
        super().__init__()
        self.cut, self.host = cut, host
        self.batches = self.lists = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _CONSTRUCTORS and args and (lengths := _as_tensor(*args, **kwargs)) is not None:
            return lengths
        if name == "numpy" and isinstance(args[0], FakeTensor | FunctionalTensor) and self.takes(args[0]):
            return HostLengths(args[0], is_list=False)
        is_packed = any(issubclass(kind, PackedRows | BatchSizes) for kind in types)
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.data:
            return args[0].detach()  # A trace does not see the other.
        if name == "_pack_padded_sequence":
            self.batches += 1
            return _pack(*args, **kwargs, cut=self.cut)
        if is_packed and name in _FUNCTIONS:
            return _FUNCTIONS[name](*args, **kwargs)
        return on_rows(func, args, kwargs) if is_packed else func(*args, **kwargs)

    def takes(self, tensor: Tensor) -> bool:
        """Return True if the values of a tensor may be lengths, and count them."""
        if not self.host or tensor.ndim != 1:
            return False
        self.lists += 1
        return True

    def tolist(self, tensor: Any) -> Any:
        """Return the result of ``tensor.tolist()``."""
        if self.takes(tensor):
            return HostLengths(tensor, is_list=True)
        return _TOLIST[type(tensor)](tensor)


@contextlib.contextmanager
def packed_sequences(module: torch.nn.Module, tracing: PackedSequences) -> Iterator[None]:
    """Trace packed sequences of a module inside the block as padded batches with lengths."""
    with contextlib.ExitStack() as stack:
        for kind in (FakeTensor, FunctionalTensor):
            stack.enter_context(mock.patch.object(kind, "tolist", lambda tensor: tracing.tolist(tensor)))
        stack.enter_context(mock.patch.object(RNNBase, "get_expected_hidden_size", _expected_hidden_size))
        stack.callback(module.register_forward_hook(_require_padded).remove)
        stack.enter_context(tracing)
        yield


def _require_padded(module: torch.nn.Module, args: Any, results: Any) -> None:
    if any(isinstance(leaf, PackedRows) for leaf in _pytree.tree_leaves(results)):
        raise _refusal("it", "is a result of the module; return the result of pad_packed_sequence instead")


_TOLIST = {kind: kind.tolist for kind in (FakeTensor, FunctionalTensor)}
_EXPECTED_HIDDEN_SIZE = RNNBase.get_expected_hidden_size


def _expected_hidden_size(self: RNNBase, input: Any, batch_sizes: Any) -> Any:
    """Return the size of a state, without torch's ``int()``, which would fix the number of sequences."""
    if not isinstance(batch_sizes, BatchSizes):
        return _EXPECTED_HIDDEN_SIZE(self, input, batch_sizes)
    directions = 2 if self.bidirectional else 1
    return self.num_layers * directions, batch_sizes[0], self.proj_size or self.hidden_size
