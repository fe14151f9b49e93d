"""Values that a module reads while it is traced: they are fixed, and asserted in the trace."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes

from jaxlstm_converters.pt2.model_lines import asserted_truth, line_of_model


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
        if name in ("__getitem__", "__setitem__"):
            # torch reads an integer tensor without axes as a number.
            args = (args[0], _pytree.tree_map_only(torch.Tensor, self._number, args[1]), *args[2:])
        result = func(*args, **kwargs or {})
        if name == "from_numpy":
            self.constants.append(result)
        return result

    def _number(self, index: torch.Tensor) -> Any:
        if index.ndim or index.is_floating_point() or index.dtype == torch.bool:
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
        attributes = [list(vars(part).values()) for part in module.modules()]
        known = {_memory(leaf) for leaf in _pytree.tree_leaves([attributes, self.constants])}
        for node in traced.graph.nodes:
            # torch lifts the values of torch.tensor([...]).
            if node.op != "get_attr" or all("lift_fresh" in str(user.target) for user in node.users):
                continue
            if _memory(getattr(traced, str(node.target))) not in known:
                raise ValueError(f"the trace does not know where the tensor {node.target} comes from")


class KnownBuffers(TorchFunctionMode):
    """A mode in which reading the value of a buffer gives its present value, and asserts it in the trace.

    A tensor that an ``assert`` statement of the model reads is asserted in the trace too.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._module = module
        self._values = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        if getattr(func, "__name__", "") in _READS:
            for name, buffer in self._module.named_buffers():
                if buffer is args[0]:
                    return _read_as(self._values[name], func, *args, **kwargs or {})[0]
        if getattr(func, "__name__", "") == "__bool__" and (found := asserted_truth()) is not None:
            truth, line = found
            torch.ops.aten._assert_async.msg(args[0] if truth else args[0].logical_not(), line)
            return truth
        return func(*args, **kwargs or {})


def _read_as(
    known: torch.Tensor, func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[Any, str]:
    """Read the known value of a tensor, and assert it in the trace. Returns the value and a text of it."""
    with _disable_current_modes():
        value = func(known.clone(), *args, **kwargs)
        text = str(known.tolist())[:100]
    if line := line_of_model():
        text += f" at {line}"
    torch.ops.aten._assert_async.msg((tensor == known).all(), f"the value that the export fixed to {text}")
    return value, text


def _memory(leaf: Any) -> int | None:
    return leaf.untyped_storage().data_ptr() if isinstance(leaf, torch.Tensor) else None


_READS = ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")
