"""Values that a module reads while it is traced: they are fixed, and asserted in the trace."""

import contextlib
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from jaxlstm_converters.pt2.trace.byte_masks import as_masks
from jaxlstm_converters.pt2.trace.model_lines import asserted_truth, line_of_model
from jaxlstm_converters.pt2.trace.written_places import set_at


class FixedValues(TorchFunctionMode):
    """A mode in which reading a value gives the value of the example, and asserts it in the trace.

    Attributes:
        fixed: the values, with the lines that read them.
        constants: tensors of values that were read, and of NumPy arrays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fixed: list[str] = []
        self.constants: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        name = getattr(func, "__name__", "")
        if name in _READS and isinstance(args[0], torch.Tensor):
            return self._read(func, args[0], *args[1:], **kwargs or {})
        if name in _TRUTHS:
            return self._read(torch.Tensor.__bool__, _TRUTHS[name](*args, **kwargs or {}))
        if name in ("__getitem__", "__setitem__"):
            # torch reads an integer tensor without axes as a number.
            index = _pytree.tree_map_only(torch.Tensor, self._number, args[1])
            args = (args[0], with_bounds(index, self._number), *args[2:])
        if name in _MAKES or name in _RESHAPES:  # A size may be such a tensor, too.
            own = args[: name in _RESHAPES]
            given = _pytree.tree_map_only(torch.Tensor, self._number, (args[len(own) :], kwargs or {}))
            args, kwargs = (*own, *given[0]), given[1]
        result = _traced(func, *args, **kwargs or {})
        if name == "as_tensor":
            self.constants.append(result)
        return result

    def _number(self, index: torch.Tensor) -> Any:
        if index.ndim or index.is_floating_point() or index.dtype in (torch.bool, torch.uint8):
            return index
        return self._read(torch.Tensor.item, index)

    def _read(self, func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            known = tensor.detach().clone()
        value, text = _read_as(known, func, tensor, *args, **kwargs)
        self.fixed.append(f"a value read as {text}")
        self.constants.append(known)
        return value

    def require_known(self, traced: torch.fx.GraphModule, module: torch.nn.Module) -> None:
        """Raise if a constant of a trace is neither an attribute nor of Python values: it may be an input."""
        owners = (*module.modules(), *module.parameters(), *module.buffers())
        attributes = [list(vars(owner).values()) for owner in owners]
        known = {_memory(leaf) for leaf in _pytree.tree_leaves([attributes, self.constants])}
        for node in traced.graph.nodes:
            # torch lifts the values of torch.tensor([...]).
            if node.op != "get_attr" or all("lift_fresh" in str(user.target) for user in node.users):
                continue
            if _memory(getattr(traced, str(node.target))) not in known:
                raise ValueError(f"the trace does not know where the tensor {node.target} comes from")


class TracedSizes(torch.fx.Interpreter):
    """A run of a trace that asserts the sizes that depend on values: the trace has the sizes of the example.

    Attributes:
        fixed: the sizes, with the lines where they occur.
        line: the line of the present node.
    """

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__(traced)
        self.fixed: list[str] = []
        self.line: str | None = None

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node."""
        if n.op == "output":  # The sizes of the results are asserted already.
            return super().run_node(n)
        self.line = n.meta.get(_LINE)
        leaves, structure = _pytree.tree_flatten(super().run_node(n))
        traced = itertools.chain(_pytree.tree_leaves(n.meta.get("val")), itertools.repeat(None))
        leaves = [self._at_sizes(*pair) for pair in zip(leaves, traced, strict=False)]
        return _pytree.tree_unflatten(leaves, structure)

    def _at_sizes(self, result: Any, traced: Any) -> Any:
        for axis, size in enumerate(result.shape if isinstance(result, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt):
                self.fixed.append(f"a size {traced.shape[axis]} at {self.line or 'an unknown line'}")
                torch._check(size == traced.shape[axis])
                if traced.shape[axis] < 2:  # torch takes an unknown size for larger.
                    result = result.narrow(axis, 0, traced.shape[axis])
        return result


def with_bounds(index: Any, number: Callable[[torch.Tensor], Any]) -> Any:
    """Return an index in which the tensors that bound its slices are numbers."""
    if isinstance(index, tuple):
        return tuple(with_bounds(part, number) for part in index)
    if not isinstance(index, slice):
        return index
    bounds = (index.start, index.stop, index.step)
    return slice(*(number(bound) if isinstance(bound, torch.Tensor) else bound for bound in bounds))


class KnownValues(TorchFunctionMode):
    """A mode in which a small tensor has a known value if it is a function of constants and buffers.

    Reading the value gives it, and asserts it in the trace: a call may have other buffers, and a change of a
    view is not seen. A tensor that an ``assert`` statement of the model reads is asserted in the trace too.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        # A dict of buffers, the name of one, and its value.
        self._buffers = [
            (part._buffers, name, buffer.detach().clone())
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        # Identity of a tensor -> the tensor, which keeps the identity, and its value.
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **kwargs)  # In a branch of torch.cond, for example.
        name = getattr(func, "__name__", "")
        if name in _READS and (known := self._find(args[0])) is not None:
            return _read_as(known, func, *args, **kwargs)[0]
        if name == "__bool__" and (found := asserted_truth()) is not None:
            truth, line = found
            torch.ops.aten._assert_async.msg(args[0] if truth else args[0].logical_not(), line)
            return truth
        if name in ("__getitem__", "__setitem__"):
            args = (args[0], with_bounds(args[1], self._number), *args[2:])
        result = None
        if name == "__setitem__":
            args = (args[0], as_masks(args[1]), *args[2:])
        if name != "__setitem__" or not _traced(set_at, *args):
            result = _traced(func, *args, **kwargs)
        if changes_in_place(name, kwargs):
            changed = {_memory(self._find(leaf)) for leaf in _pytree.tree_leaves((args, kwargs))} - {None}
            self._known = {key: item for key, item in self._known.items() if _memory(item[1]) not in changed}
        else:
            self._follow(func, args, kwargs, result)
        return result

    def _number(self, bound: torch.Tensor) -> Any:
        known = self._find(bound)
        return bound if known is None else _read_as(known, torch.Tensor.item, bound)[0]

    def _find(self, leaf: Any) -> torch.Tensor | None:
        if not isinstance(leaf, torch.Tensor) or not _is_small(leaf):
            return None
        if id(leaf) not in self._known:
            found = (value for buffers, name, value in self._buffers if buffers.get(name) is leaf)
            return next(found, None)
        return self._known[id(leaf)][1]

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Keep the results of a function of known values, unless they are random, undefined or large."""
        results = _pytree.tree_leaves(result)
        if not any(isinstance(leaf, torch.Tensor) for leaf in results) or not all(map(_is_small, results)):
            return
        leaves, structure = _pytree.tree_flatten((args, kwargs))
        known = [self._find(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        are_known = [
            value is not None if isinstance(leaf, torch.Tensor) else _is_constant(leaf)
            for leaf, value in zip(leaves, known, strict=True)
        ]
        if not all(are_known) or "empty" in getattr(func, "__name__", ""):
            return
        with _disable_current_modes(), torch._C.DisableTorchFunction(), contextlib.suppress(_RandomError):
            args, kwargs = _pytree.tree_unflatten(known, structure)
            with _NotRandom():
                values = _pytree.tree_leaves(func(*args, **kwargs))
            self._known.update((id(a), (a, b)) for a, b in zip(results, values, strict=True))


class _RandomError(Exception):
    """A function draws random numbers."""


class _NotRandom(TorchDispatchMode):
    """A mode in which random functions fail, before they change torch's state of all threads."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _RandomError
        return func(*args, **kwargs or {})


_CONSTANTS = (int, float, bool, str, type(None), type(...), torch.dtype, torch.device, torch.layout)


def _is_constant(leaf: Any) -> bool:
    """Return True for numbers of the code, and False for sizes, functions and arrays, which may be inputs."""
    parts = (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)
    return all(type(part) in _CONSTANTS for part in parts)


def _is_small(leaf: Any) -> bool:
    sizes = leaf.shape if isinstance(leaf, torch.Tensor) else ()
    return all(type(size) is int for size in sizes) and math.prod(sizes) <= 4096


def changes_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Return True for ``add_``, ``__setitem__`` and ``__iadd__``, and for results in a given tensor."""
    is_named = name.endswith("_") and not name.endswith("__")
    is_operator = name in ("__setitem__", "__set__") or (
        name[:3] == "__i" and f"__{name[3:]}" in dir(operator)
    )
    return is_named or is_operator or "out" in kwargs or bool(kwargs.get("inplace"))


def _traced(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a function with the line of the model at its nodes. Erase the nodes if it fails by its sizes."""
    mode = get_proxy_mode()
    if mode is None:
        return func(*args, **kwargs)
    graph = mode.tracer.graph
    last = next(reversed(graph.nodes), None)

    def added() -> list[torch.fx.Node]:
        return [*itertools.takewhile(lambda node: node is not last, reversed(graph.nodes))]

    try:
        return func(*args, **kwargs)
    except Exception:
        nodes = added()
        has_written = any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in nodes)
        if not has_written and _fails_without_values(func, args, kwargs):
            for node in nodes:
                graph.erase_node(node)
        raise
    finally:
        if nodes := added():
            line = line_of_model()
            for node in nodes:
                node.meta[_LINE] = line


def _fails_without_values(func: Any, args: Any, kwargs: Any) -> bool:
    with _disable_current_modes():
        args, kwargs = _pytree.tree_map_only(
            torch.Tensor, lambda x: x if isinstance(x, FakeTensor) else x.to("meta"), (args, kwargs)
        )
        try:
            func(*args, **kwargs)
        except Exception:  # Whatever the model catches.
            return True
    return False


def _read_as(
    known: torch.Tensor, func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[Any, str]:
    """Read the known value of a tensor, and assert it in the trace. Returns the value and a text of it."""
    with _disable_current_modes():
        value = func(known.clone(), *args, **kwargs)
        text = str(known.tolist())[:100]
        # Results of forward have other roundings in JAX.
        limit = _ROUNDING * torch.finfo(known.dtype).eps if known.is_floating_point() else 0.0
        largest = known.abs().nan_to_num(0, 0).max().item() if limit and known.numel() else 0.0
    if line := line_of_model():
        text += f" at {line}"
    is_equal = torch.isclose(tensor, known, 0.0, limit * largest, True) if limit else tensor == known
    torch.ops.aten._assert_async.msg(is_equal.all(), f"the value that the export fixed to {text}")
    return value, text


def _memory(leaf: Any) -> int | None:
    return leaf.untyped_storage().data_ptr() if isinstance(leaf, torch.Tensor) else None


_TRUTHS: dict[str, Callable[..., torch.Tensor]] = {
    "allclose": lambda *args, **kwargs: torch.isclose(*args, **kwargs).all(),
    "equal": lambda x, y: (x == y).all() if x.shape == y.shape else x.new_zeros(()),
    "is_nonzero": lambda x: x != 0,
}
_ROUNDING = 64
"""A limit for errors of rounding, as a multiple of the spacing of floats at the largest number."""
_LINE = "line of the model"
_MAKES = ("arange", "empty", "eye", "full", "ones", "zeros")
_RESHAPES = ("expand", "narrow", "repeat", "reshape", "view", *(f"new_{name}" for name in _MAKES))
_READS = ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")
