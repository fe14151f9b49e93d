"""`from_module`: export a live torch module, and read the result with the reader of `.pt2` files.

torch is imported by the functions, so that importing the package does not import torch.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxlstm_converters.checkpoint.io.files import MemoryFile
from jaxlstm_converters.pt2._load_program import program_of
from jaxlstm_converters.pt2._read_pt2 import read_source
from jaxlstm_converters.pt2.free_time import free_time
from jaxlstm_converters.pt2.model_lines import condition_lines, recorded_lines

if TYPE_CHECKING:
    import torch

    from jaxlstm.programs.program import Program


def from_module(
    torch_module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Program:
    """Return a live torch module as a program.

    The module is exported with ``torch.export``, and the file that torch would save is read as
    :func:`jaxlstm.load_program` reads it. The time axis of an LSTM, GRU or RNN stays free, which a
    plain export does not achieve. ``program.inputs`` lists the axes that are free. An axis of size 0 or 1 in
    the example is fixed, so pass an example with a batch of at least two. Packed sequences
    inside of the module become padded batches with lengths.

    Args:
      torch_module: the module, in evaluation mode.
      args: example arguments of its ``forward``, which determine dtypes and fixed sizes.
      kwargs: example keyword arguments.
      dynamic_shapes: as for ``torch.export.export``. By default every axis of every tensor is
        ``torch.export.Dim.AUTO``: free unless the module fixes it.

    Raises:
      TypeError: an argument has the wrong type or is a packed sequence, or the module returns a type that
        ``torch.export.save`` cannot write, such as the result of ``x.max(1)``.
      CheckpointError: the exported program has parts that are not supported, such as custom objects.
      ProgramError: it uses unsupported operators, or the module is in training mode.
      Exception: torch cannot export the module.

    >>> program = jaxlstm.from_module(crnn.eval(), (images,))  # doctest: +SKIP
    >>> y = jax.jit(program)(program.params, x)  # doctest: +SKIP
    """
    import torch

    if not isinstance(torch_module, torch.nn.Module):
        raise TypeError(f"torch_module must be a torch.nn.Module, got {type(torch_module).__name__}")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of example arguments, such as (x,), got {type(args).__name__}")
    kwargs = dict(kwargs or {})
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.nn.utils.rnn.PackedSequence):
            raise TypeError(
                "args must not hold a PackedSequence; pass the padded batch and its lengths to a module that "
                "packs them in forward"
            )
        if hasattr(value, "__array__") and not isinstance(value, torch.Tensor):
            raise TypeError(f"args must hold torch tensors, got {type(value).__name__}; use torch.from_numpy")
    if dynamic_shapes is None:
        dynamic_shapes = _free_axes(torch_module, args, kwargs)
    exported = _export(torch_module, args, kwargs, dynamic_shapes)
    lines = condition_lines(exported)
    for graph in (part.graph for part in exported.graph_module.modules() if hasattr(part, "graph")):
        for node in graph.nodes:
            node.meta.pop("stack_trace", None)  # It holds the paths of source files on this machine.
    for tensors in (exported.state_dict, exported.constants):
        tensors.update((name, _resolved(tensor)) for name, tensor in tensors.items())
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(exported, buffer)
    except NotImplementedError as error:
        # torch.return_types.max and the like have no name in a file.
        message = f"torch.export.save cannot write it: {error} Return plain tuples, lists or dicts"
        raise TypeError(message) from error
    file = read_source(MemoryFile(buffer.getvalue(), f"<{type(torch_module).__name__}>"))
    return program_of(file._replace(graph=replace(file.graph, lines=lines)))


def _export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any, dynamic_shapes: Any) -> Any:
    """Return the program of ``torch.export``."""
    import torch
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    from jaxlstm_converters.pt2.trace_packed import packed_sequences

    for cut in (True, False):
        tracing = packed_sequences(module, cut=cut)
        with recorded_lines(), free_time(), tracing as packed, warnings.catch_warnings():
            # About torch's own code, and attributes that become constants.
            warnings.simplefilter("ignore")
            try:
                return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
            except GuardOnDataDependentSymNode:
                if not (cut and packed.count):
                    raise
    raise AssertionError


def _resolved(value: Any) -> Any:
    """Return a tensor with the values that it shows: a file does not record lazy conjugates and negatives."""
    import torch

    if torch.is_tensor(value) and (value.is_conj() or value.is_neg()):
        return value.resolve_conj().resolve_neg()
    return value


def _free_axes(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return dynamic shapes by which torch decides for each axis whether it can be free."""
    import torch
    from torch.utils import _pytree

    def axes(value: Any) -> dict[int, Any] | None:
        if not isinstance(value, torch.Tensor):
            return None
        # torch fixes axes of size 0 and 1 in any case, and logs a warning if they are marked.
        return {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if size > 1}

    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    return _pytree.tree_map(axes, dict(arguments))
