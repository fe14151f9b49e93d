"""`from_module`: export a live torch module, and read the result with the reader of `.pt2` files.

torch is imported by the functions, so that importing the package does not import torch.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from jaxlstm._shared.own_thread import LOCK, replaced
from jaxlstm._shared.torch_methods import method_of, set_forward
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, Input, unused_inputs
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.operators.dtypes import held
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.checkpoint.io.files import MemoryFile
from jaxlstm_converters.pt2._load_program import program_of
from jaxlstm_converters.pt2._read_pt2 import ProgramFile, read_pt2
from jaxlstm_converters.pt2.schema.calls import without_paths
from jaxlstm_converters.pt2.trace.model_lines import condition_lines

if TYPE_CHECKING:
    import torch

    from jaxlstm.programs.program import Program
    from jaxlstm_converters.pt2.export_steps import ExportCall, ExportStep


_COMPARISONS = (operator.le, operator.lt, operator.ge, operator.gt)
_OLDEST_TORCH = (2, 13)
"""The oldest torch with the internals that the export relies on. With 2.11, programs take wrong branches."""


def from_module(
    torch_module: torch.nn.Module | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    dynamic_shapes: Any = None,
) -> Program:
    """Return a live torch module, or a method of it, as a program.

    The module is exported with ``torch.export``, and the file that torch would save is read as
    :func:`jaxlstm.load_program` reads it. The time axis of an LSTM, GRU or RNN stays free, which a
    plain export does not achieve. ``program.inputs`` lists the axes that are free. An axis of size 0 or 1 in
    the example is fixed, so pass an example with a batch of at least two. Packed sequences inside of the
    module become padded batches with lengths; dataclasses, mappings and packed sequences among its results
    become dicts.

    If torch cannot export the module with free axes, fewer axes are free. Conditions on values are decided as
    in the example. A warning lists the fixed parts. The program keeps a copy of the module, which shares the
    memory of the parameters. Sizes, lengths of lists, constants and, outside of ``jit``, values that it does
    not take export it again; under ``jit``, all branches of one or two conditions on values are exported.

    Args:
      torch_module: the module, in evaluation mode, or a bound method of it such as ``model.encode``. A
        ScriptModule is read as :func:`jaxlstm.load_torchscript` reads it.
      args: example arguments of its ``forward``, or of the method, which determine dtypes and fixed sizes.
      kwargs: example keyword arguments.
      method: the name of a method to call instead of ``forward``. Its program has the parameters of the whole
        module, so that the programs of several methods share them.
      dynamic_shapes: as for ``torch.export.export``. By default every axis of every tensor is
        ``torch.export.Dim.AUTO``: free unless the module fixes it. With others, no call exports again.

    Raises:
      ImportError: torch is older than 2.13.
      TypeError: an argument has the wrong type or is a packed sequence, or the module returns a type that
        ``torch.export.save`` cannot write.
      ValueError: the module has no such method.
      CheckpointError: the exported program has parts that are not supported, such as custom objects.
      ProgramError: it uses unsupported operators, or the module is in training mode.
      Exception: the module fails on the example, or torch cannot export it in any way.

    >>> program = jaxlstm.from_module(crnn.eval(), (images,))  # doctest: +SKIP
    >>> y = jax.jit(program)(program.params, x)  # doctest: +SKIP
    """
    import torch
    from torch.utils import _pytree

    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_TORCH:
        raise ImportError(
            f"from_module needs torch 2.13 or newer, got {torch.__version__}; run pip install -U torch, or "
            "write a file with torch.export.save, and read it with jaxlstm.load_program"
        )
    torch_module, method = _without_script(torch_module, method)
    torch_module, function = method_of(torch_module, method)
    if not isinstance(torch_module, torch.nn.Module):
        raise TypeError(f"torch_module must be a torch.nn.Module, got {type(torch_module).__name__}")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of example arguments, such as (x,), got {type(args).__name__}")
    kwargs = dict(kwargs or {})
    packed = torch.nn.utils.rnn.PackedSequence
    for value in _pytree.tree_leaves((args, kwargs), is_leaf=lambda x: isinstance(x, packed)):
        if isinstance(value, packed):
            raise TypeError(
                "args must not hold a PackedSequence; pass the padded batch and its lengths to a module that "
                "packs them in forward"
            )
        if hasattr(value, "__array__") and not isinstance(value, torch.Tensor | float):
            raise TypeError(f"args must hold torch tensors, got {type(value).__name__}; use torch.from_numpy")
    for name, part in torch_module.named_modules():
        if isinstance(part, torch.jit.ScriptModule) and [*part.parameters()]:
            raise TypeError(
                f"{name} is a ScriptModule in a Python module, which torch.export does not take; replace it "
                "by jaxlstm.load_torchscript(script), or by a module of its Python class, filled with "
                "module.load_state_dict(script.state_dict())"
            )
    from jaxlstm_converters.pt2.export_steps import ExportCall, export_in_steps
    from jaxlstm_converters.pt2.other_sizes import OtherSizes
    from jaxlstm_converters.pt2.trace.export_patches import own_gradients
    from jaxlstm_converters.pt2.trace.module_copies import traced_copy
    from jaxlstm_converters.pt2.trace.trace_packed import padded_example

    finish = functools.partial(_as_file, name=f"<{type(torch_module).__name__}>")
    runs = functools.partial(_runs_under_jit, finish)
    with LOCK, contextlib.ExitStack() as stack:
        module = traced_copy(torch_module)
        stack.callback(set_forward(module, function))
        dropped = stack.enter_context(own_gradients(module))
        call = ExportCall(module, args, dict(kwargs), dynamic_shapes, runs, {}, function)
        step, file = export_in_steps(call, finish)
    for sentence in sorted(dropped):
        warnings.warn(f"from_module: {sentence}", UserWarning, stacklevel=2)
    if dynamic_shapes is None and (single := _single_row(file.graph)):
        warnings.warn(f"from_module: {single}", UserWarning, stacklevel=2)
    for sentence in unused_inputs(file.graph):
        warnings.warn(f"from_module: {sentence.partition('. ')[0]}", UserWarning, stacklevel=2)
    inputs = tuple(_with_reason(declared, step) for declared in file.graph.inputs)
    graph = replace(file.graph, lines=condition_lines(step.program), inputs=inputs)
    program = program_of(file._replace(graph=graph))
    if step.fixed:
        warnings.warn(_warning(step, function, program.inputs), UserWarning, stacklevel=2)
    if changed := _changed_state(call, program.dropped_changes):
        warnings.warn(changed, UserWarning, stacklevel=2)
    if dynamic_shapes is None:
        with contextlib.suppress(RuntimeError, TypeError):  # Not every module can be copied.
            program.at_sizes = OtherSizes(call._replace(module=torch_module), step, finish, program)
    if padded := padded_example(call.args, call.kwargs, program):
        warnings.warn(padded, UserWarning, stacklevel=2)
    return program


def _without_script(torch_module: Any, method: str | None) -> tuple[Any, str | None]:
    """Return a plain module for a ScriptModule or a method of one, and the name of the method."""
    import torch
    from torch.jit._recursive import wrap_cpp_module

    if isinstance(torch_module, torch.ScriptMethod):
        method = method or torch_module.name
        torch_module = wrap_cpp_module(torch_module.owner)
    if isinstance(torch_module, torch.jit.ScriptModule):
        from jaxlstm_converters.torchscript._load_torchscript import load_torchscript

        torch_module = load_torchscript(torch_module)
    return torch_module, method


def _runs_under_jit(finish: Callable[[Any], ProgramFile], call: ExportCall, exported: Any) -> bool:
    """Return True if the exported program of a call runs under ``jax.jit`` on arguments of its sizes."""
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves([*call.args, *call.kwargs.values()])
    tensors = [leaf for leaf in leaves if hasattr(leaf, "shape")]

    def run(*tensors: Any) -> None:
        args, kwargs = as_arguments(program.graph, tensors)
        program(program.params, *args, **kwargs)

    try:
        program = program_of(finish(exported))
        types = zip(tensors, program.graph.input_types.values(), strict=True)
        jax.eval_shape(
            run, *(jax.ShapeDtypeStruct(tuple(tensor.shape), held(type_.dtype)) for tensor, type_ in types)
        )
    except (ProgramError, CheckpointError):
        return False
    return True


def _with_reason(declared: Input, step: ExportStep) -> Input:
    """Return an input with the reason why a step fixed sizes of its axes."""
    if not step.has_sizes or declared.type is None:
        return declared
    sizes = enumerate(declared.type.shape)
    return replace(
        declared, fixed={axis: step.reason for axis, size in sizes if type(size) is int and size > 1}
    )


def _single_row(graph: Graph) -> str:
    """Return a warning about a batch of one row in the example, which fixes the axis, or ""."""
    name, type_ = next(iter(graph.input_types.items()), ("", None))
    if type_ is None or len(type_.shape) < 2 or type_.shape[0] != 1:
        return ""
    return (
        f"axis 0 of {name} has size 1 in the example and is fixed. If it is the batch, pass an example of "
        "two rows, so that the program takes any number of rows"
    )


def _warning(step: ExportStep, method: Callable[..., Any] | None, inputs: Iterable[Input]) -> str:
    shown = "; ".join(step.fixed[:8]) + ("; ..." if len(step.fixed) > 8 else "")
    if not step.has_sizes:
        # Such as the number of rows where forward makes a list of a tensor.
        shown += "".join(f"; {why}" for declared in inputs for why in declared.fixed.values())
    loop = (
        ". The loop takes another export for each number of rounds: write it in JAX, around the program of a "
        "method, as docs/decoding.md shows"
    )
    jitted = "takes the other branch under jax.jit if its results have equal shapes, or else gives NaN"
    has_branches = bool(step.truths and step.truths.others())
    return (
        f"from_module fixed parts of {f'the method {method.__name__}' if method else 'the model'} to the "
        f"example, because {step.reason}. Fixed: {shown}. A call with other values exports the module again "
        f"outside of jax.jit, and {jitted if has_branches else 'gives NaN under jax.jit'}"
        + loop
        * any(": while " in x for x in step.fixed)
    )


def _changed_state(call: ExportCall, in_place: Iterable[str]) -> str:
    """Return a warning about the values of the module that forward changes for a later call, or ""."""
    from jaxlstm_converters.pt2.trace.module_copies import copied
    from jaxlstm_converters.pt2.trace.state import line_of, read_first

    changed = {name: line_of(call.module, name.rpartition(".")[2]) for name in in_place}
    paths = {*call.changed}
    name = call.method.__name__ if call.method else "forward"
    with contextlib.suppress(RuntimeError, TypeError):  # Not every module can be copied.
        module = copied(call.module)
        set_forward(module, call.method)
        paths = read_first(module, lambda: module(*call.args, **call.kwargs), paths) if paths else paths
    changed |= {path: line for path, line in call.changed.items() if path in paths}
    if not changed:
        return ""
    shown = (f"{path} at {line}" if line else path for path, line in changed.items())
    return (
        f"from_module: {name} changes {'; '.join(shown)}. A call of the program does not, and begins with "
        "the values from before the export. If a call needs the values that the previous one left, make them "
        f"arguments and results of {name}"
    )


def _as_file(exported: torch.export.ExportedProgram, *, name: str) -> ProgramFile:
    """Return the parts of the file that torch writes of an exported program."""
    import torch
    from torch._export.serde import serialize

    from jaxlstm_converters.pt2.trace.call_signatures import SIGNATURES

    for part in exported.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            if stack_trace := node.meta.get("stack_trace"):
                node.meta["stack_trace"] = without_paths(stack_trace)
            if node.target in _COMPARISONS:  # with bounds of torch's assertions, which may be beyond int64
                node.args = tuple(min(a, 2**63 - 1) if type(a) is int else a for a in node.args)
    for tensors in (exported.state_dict, exported.constants):
        tensors.update((key, _resolved(tensor)) for key, tensor in tensors.items())
    buffer = io.BytesIO()
    signatures = {SIGNATURES: json.dumps(exported.graph_module.meta.get(SIGNATURES, {}))}
    # torch reads these operators of sizes from a file, and refuses to write them.
    operators = serialize._SYM_OPS | {math.ceil, math.floor, operator.abs}
    try:
        with (
            warnings.catch_warnings(),
            replaced(serialize, "_SYM_OPS", operators),
            # A canonical order serves comparisons of files, and takes a fifth of the time of an export.
            replaced(serialize, "canonicalize", lambda program, constants=None: program),
        ):
            warnings.simplefilter("ignore")
            torch.export.save(exported, buffer, extra_files=signatures)
    except NotImplementedError as error:
        # An unknown class has no name in a file.
        message = f"torch.export.save cannot write it: {error} Return tuples, lists, dicts or dataclasses"
        raise TypeError(message) from error
    return read_pt2(MemoryFile(buffer.getvalue(), name))


def _resolved(value: Any) -> Any:
    """Return a tensor with the values that it shows: a file does not record lazy conjugates and negatives."""
    import torch

    if torch.is_tensor(value) and (value.is_conj() or value.is_neg()):
        return value.resolve_conj().resolve_neg()
    return value
