"""`PackedSequences`: a mode in which torch's packed sequences are padded batches with lengths.

Inside the mode, the functions of ``torch.nn.utils.rnn`` and the recurrent layers of torch run unmodified. The
four C++ functions below them are replaced: a `PackedSequence` then holds `PackedRows` as ``data`` and
`BatchSizes` as ``batch_sizes``, and a recurrence becomes one operator of `jaxlstm_converters.pt2.packed`.
The mode is local to its thread, and needs no name of a module to be replaced.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch._numpy._ndarray import ndarray
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.modules.rnn import RNNBase
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from jaxlstm._shared.own_thread import replaced
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph
from jaxlstm_converters.pt2 import packed
from jaxlstm_converters.pt2.trace.export_patches import results_hook
from jaxlstm_converters.pt2.trace.packed_rows import (
    Batch,
    BatchSizes,
    PackedRows,
    as_tensors,
    on_rows,
    refusal,
)

_OPERATORS = torch.ops.jaxlstm


class HostLengths(Sequence[Any]):
    """The result of ``lengths.tolist()`` or ``list(lengths)`` inside the mode.

    `pack_padded_sequence` takes the tensor back. Any other use reads the elements, as numbers or as tensors.
    """

    def __init__(self, tensor: Tensor, element: Callable[[Tensor], Any]) -> None:
        self.tensor = tensor
        self.element = element

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class for isinstance: a model may ask for a list. C code does not take it for one."""
        return list

    @functools.cached_property
    def _items(self) -> list[Any]:
        return [self.element(element) for element in self.tensor]

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]


Cut = Literal["any", "none", "some"]
"""The steps of padding after the longest sequence of a batch that an export takes."""

_FULL = "the longest of the packed sequences must be as long as its padding: cut the inputs after it"


def requires_cut(graph: Graph) -> bool:
    """Return True for a program that requires batches without steps of padding only."""
    return bool(other_cuts(graph))


def other_cuts(graph: Graph) -> list[tuple[Cut, ...]]:
    """Return what other exports take of a program that requires batches without steps of padding only.

    Of one or two batches, each may have such steps; of more, all have them.
    """
    count = sum(node.kwargs.get("assert_msg") == _FULL for node in graph.nodes)
    cuts: list[tuple[Cut, ...]] = [*itertools.product(("none", "some"), repeat=count)]
    return cuts[1 if count <= 2 else -1 :]


def padded_example(args: Any, kwargs: Any, program: Any) -> str:
    """Return a warning about padding after the longest sequence, which the program of an example refuses."""
    if not requires_cut(program.graph):
        return ""
    args, kwargs = _pytree.tree_map(
        lambda x: x.detach().numpy() if isinstance(x, Tensor) else x, (args, kwargs)
    )
    others = getattr(program.at_sizes, "branches", lambda *call: ())
    message = ""
    for make in (lambda: (program,), lambda: others(program, args, kwargs)):
        for branch in map(copy.copy, make()):
            branch.at_sizes = None
            try:
                branch(program.params, *args, **kwargs)
            except ProgramError as error:
                message = message or error.message
            else:
                return ""
    return (
        f"from_module: the program does not take its example: {message}. A call with such padding "
        "exports the module again outside of jax.jit, and gives NaN under jax.jit"
    )


def _pack(input: Tensor, lengths: Tensor, batch_first: bool, cut: Cut) -> tuple[Any, Any]:
    axis = 1 if batch_first else 0
    if cut == "none":
        padded = input.clone()
        torch.ops.aten._assert_async.msg(lengths[0] == input.shape[axis], _FULL)
    else:
        padded = _OPERATORS.pack_padded(input, lengths, batch_first)
    if cut == "some":
        torch._check(padded.shape[axis] < input.shape[axis])
    batch = Batch(padded, lengths.clone(), batch_first)  # The model may change its lengths in place.
    return PackedRows(padded, batch), BatchSizes(batch)


def _pad(
    data: Any, batch_sizes: Any, batch_first: bool, padding_value: float, total_length: Any
) -> tuple[Tensor, Tensor]:
    padded, batch = _padded(data, batch_sizes)
    steps = None if total_length is batch.steps else total_length
    padded = _OPERATORS.pad_packed(padded, batch.lengths, batch.batch_first, float(padding_value), steps)
    return (padded if batch_first == batch.batch_first else padded.transpose(0, 1)), batch.lengths.clone()


def _padded(data: Any, batch_sizes: Any) -> tuple[Tensor, Batch]:
    """Return the padded tensor of the fields, and its batch."""
    if not isinstance(batch_sizes, BatchSizes):
        raise refusal("a PackedSequence", "was made with other batch_sizes")
    batch = batch_sizes.batch
    if isinstance(data, PackedRows) and data.batch is batch:
        return data.padded, batch
    return batch.padded(as_tensors(data)), batch


def _recurrence(name: str) -> Callable[..., Any]:
    operator = getattr(_OPERATORS, f"packed_{name}")

    def run(data: Any, batch_sizes: Any, hx: Any, params: Any, *settings: Any) -> Any:
        padded, batch = _padded(data, batch_sizes)
        hx = list(hx) if isinstance(hx, tuple | list) else [hx]
        arguments = (batch.lengths, hx, list(params), *settings, batch.batch_first)
        outputs, *states = operator(padded, *arguments)
        return PackedRows(outputs, batch), *states

    return run


def _as_tensor(data: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> Tensor | None:
    """Return lengths from the host, or a list of numbers in the trace, as a tensor; None for other data."""
    if isinstance(data, HostLengths | ndarray):
        return data.tensor.clone() if dtype is None else data.tensor.to(dtype, copy=True)
    if (
        not isinstance(data, list)
        or not all(_is_size(item) or (isinstance(item, Tensor) and item.ndim == 0) for item in data)
        or all(type(item) is int for item in data)
    ):
        return None
    items = [torch.scalar_tensor(item, dtype=torch.int64) if _is_size(item) else item for item in data]
    stacked = torch.stack(items).detach()
    return stacked if dtype is None else stacked.to(dtype)


def _is_size(item: Any) -> bool:
    return type(item) is int or isinstance(item, torch.SymInt)


def _require_equal_features(sequences: Sequence[Tensor], *settings: Any, **by_name: Any) -> None:
    """Require the sizes after the first of each sequence to be equal, which torch does not in a trace."""
    first, *others = sequences
    for sequence in others:
        for size, expected in zip(sequence.shape[1:], first.shape[1:], strict=True):
            torch._check(size == expected)


_FUNCTIONS = {"_pad_packed_sequence": _pad, **{name: _recurrence(name) for name in packed.STATES}}
_CONSTRUCTORS = ("as_tensor", "tensor")


class PackedSequences(TorchFunctionMode):
    """The mode; see the module.

    Attributes:
        cut: "any" if a packed batch ends after its longest sequence, as in torch. Its number of steps is then
            unknown in the trace, and a condition about it cannot be decided. With "none", the batch ends
            with its padding, and the program requires that it is as long as its longest sequence; with
            "some", it requires that it is longer. A tuple has the cut of each batch.
        host: lists and arrays of lengths stand for their tensor.
        batches, lists: number of packed batches, and of lists and arrays of lengths, so far.
    """

    def __init__(self, *, cut: Cut | tuple[Cut, ...], host: bool = True) -> None:
        super().__init__()
        self.cut: Cut | tuple[Cut, ...] = cut
        self.host = host
        self.batches = self.lists = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _CONSTRUCTORS and args and (lengths := _as_tensor(*args, **kwargs)) is not None:
            return lengths
        is_new = name == "new" and len(args) == 2  # The old form of new_tensor.
        if is_new and (lengths := _as_tensor(args[1], dtype=args[0].dtype)) is not None:
            return lengths
        if name == "numpy" and isinstance(args[0], FakeTensor | FunctionalTensor) and self.takes(args[0]):
            return ndarray(args[0])
        is_packed = any(issubclass(kind, PackedRows | BatchSizes) for kind in types)
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.data:
            return args[0].detach()  # A trace does not see the other.
        if name == "where" and len(args) == 3 and getattr(args[0], "dtype", None) is torch.uint8:
            return func(args[0].bool(), *args[1:])  # A trace takes no other condition.
        if name == "pad_sequence" and not is_packed:
            _require_equal_features(*args, **kwargs)
        if name == "_pack_padded_sequence":
            cuts: list[Cut] = [self.cut] if isinstance(self.cut, str) else [*self.cut, "none"]
            self.batches += 1
            return _pack(*args, **kwargs, cut=cuts[min(self.batches, len(cuts)) - 1])
        if is_packed and name in _FUNCTIONS:
            return _FUNCTIONS[name](*args, **kwargs)
        return on_rows(func, args, kwargs) if is_packed else func(*args, **kwargs)

    def takes(self, tensor: Tensor) -> bool:
        """Return True if the values of a tensor may be lengths, and count them."""
        if not self.host or tensor.ndim != 1 or tensor.is_floating_point():
            return False
        self.lists += 1
        return True

    def as_list(self, value: Any) -> list[Any] | HostLengths:
        """Return the result of ``list(value)``."""
        is_traced = isinstance(value, FakeTensor | FunctionalTensor)
        # The elements of the list are views.
        return HostLengths(value, lambda element: element) if is_traced and self.takes(value) else list(value)

    def tolist(self, tensor: Any) -> Any:
        """Return the result of ``tensor.tolist()``."""
        is_taken = self.takes(tensor)
        return HostLengths(tensor.clone(), Tensor.item) if is_taken else _TOLIST[type(tensor)](tensor)


@contextlib.contextmanager
def packed_sequences(module: torch.nn.Module, tracing: PackedSequences) -> Iterator[None]:
    """Trace packed sequences of a module inside the block as padded batches with lengths."""
    with contextlib.ExitStack() as stack:
        for kind in (FakeTensor, FunctionalTensor):
            stack.enter_context(replaced(kind, "tolist", lambda *args: tracing.tolist(*args)))
        stack.enter_context(replaced(RNNBase, "get_expected_hidden_size", _expected_hidden_size))
        stack.enter_context(results_hook(module, as_tensors))
        stack.enter_context(tracing)
        yield


_TOLIST = {kind: kind.tolist for kind in (FakeTensor, FunctionalTensor)}
_EXPECTED_HIDDEN_SIZE = RNNBase.get_expected_hidden_size


def _expected_hidden_size(self: RNNBase, input: Any, batch_sizes: Any) -> Any:
    """Return the size of a state, without torch's ``int()``, which would fix the number of sequences."""
    if not isinstance(batch_sizes, BatchSizes):
        return _EXPECTED_HIDDEN_SIZE(self, input, batch_sizes)
    directions = 2 if self.bidirectional else 1
    return self.num_layers * directions, batch_sizes[0], self.proj_size or self.hidden_size
