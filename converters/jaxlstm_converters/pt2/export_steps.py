"""From a module to an exported program, in steps that fix more and more.

1. ``torch.export`` with all axes free.
2. Fewer free axes, if torch cannot express the conditions on all of them.
3. ``torch.export.draft_export``, which decides a condition on values as the example does, and asserts it.
4. A trace with the example's values. Sizes are fixed, and values that the model reads are asserted.

Each step is tried if the one before fails. The error of the first is raised if all fail.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar
from unittest import mock

import torch
from torch._subclasses import meta_utils
from torch.fx import traceback as fx_traceback
from torch.fx.experimental import sym_node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.utils import _pytree
from torch.utils._sympy.symbol import SymT, symbol_is_type

from jaxlstm._shared.own_thread import replaced
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2.trace.byte_masks import byte_masks
from jaxlstm_converters.pt2.trace.call_signatures import SIGNATURES, CallSignatures
from jaxlstm_converters.pt2.trace.draft_decisions import DraftDecisions, Truths
from jaxlstm_converters.pt2.trace.export_patches import (
    free_time,
    kept_regions,
    keywords_by_name,
    plain_results,
    quiet,
    with_parameters,
)
from jaxlstm_converters.pt2.trace.fixed_values import FixedValues, KnownValues, TracedSizes
from jaxlstm_converters.pt2.trace.model_lines import recorded_calls, recorded_lines
from jaxlstm_converters.pt2.trace.module_copies import copied
from jaxlstm_converters.pt2.trace.shared_arrays import SharedArrays
from jaxlstm_converters.pt2.trace.sizes_from_one import sizes_from_one
from jaxlstm_converters.pt2.trace.state import kept_state
from jaxlstm_converters.pt2.trace.symbolic_sizes import SymbolicSizes
from jaxlstm_converters.pt2.trace.tensor_attributes import tensor_attributes
from jaxlstm_converters.pt2.trace.trace_packed import Cut, PackedSequences, packed_sequences


class ExportCall(NamedTuple):
    """A module and the arguments of an example, whose tensors are distinct objects.

    Attributes:
        shapes: the dynamic shapes that the caller gave, or None.
        runs: whether an exported program of a call runs under ``jax.jit`` on its arguments.
        changed: gets the values that the module changes, see `kept_state`.
        method: the function of the method to call instead of ``forward``.
    """

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: Any
    runs: Callable[[ExportCall, torch.export.ExportedProgram], bool]
    changed: dict[str, str]
    method: Callable[..., Any] | None = None


class ExportStep(NamedTuple):
    """An exported program, and the parts that a step after the first fixed.

    Attributes:
        fixed: the parts, for a warning.
        reason: why they are fixed.
        has_sizes: True if they include the sizes of axes.
        truths: the truths that decided conditions, if nothing else is fixed.
    """

    program: torch.export.ExportedProgram
    fixed: tuple[str, ...] = ()
    reason: str = ""
    has_sizes: bool = False
    truths: Truths | None = None


@kept_regions()
def export_at_sizes(
    call: ExportCall,
    step: Literal[1, 3, 4],
    truths: tuple[bool, ...] | tuple[Cut, ...] | None = None,
    *,
    free: bool = False,
) -> ExportStep:
    """Return the export of a call at its sizes, by one step, or of another branch.

    A branch has given first truths of tensors, or packed batches that end with steps of padding.

    With ``free``, axes are free unless the model fixes them.
    """
    if step > 1:  # It may run the module, which may change its buffers.
        call = call._replace(module=copied(call.module))
    with keywords_by_name(call.module, call.kwargs), quiet():
        call = call._replace(shapes=free_axes(call, lambda axis: free))
        if step == 1:
            return ExportStep(_export(call, call.shapes))
        given: Any = truths
        if truths and isinstance(truths[0], str):
            return ExportStep(_export_with(call, call.shapes, "export", _Settings(cut=given), {}))
        if truths is not None:
            return _as_draft(call, ValueError("other truths"), given)
        return (_as_draft if step == 3 else _with_values)(call, ValueError("other sizes or values"))


Result = TypeVar("Result")


@kept_regions()
def export_in_steps(
    call: ExportCall, finish: Callable[[torch.export.ExportedProgram], Result]
) -> tuple[ExportStep, Result]:
    """Return the first step that succeeds, and the result of a function of its program."""
    if any(tensor.is_inference() for tensor in call.module.state_dict().values()):
        call = call._replace(module=copied(call.module))  # The copies are ordinary tensors.
    with keywords_by_name(call.module, call.kwargs), quiet():
        try:
            step = ExportStep(_export(call, _shapes(call)))
        except ProgramError:
            raise
        except Exception as error:  # torch raises many types
            first = error
        else:
            return step, finish(step.program)
    # Later steps run the module, which may change its buffers.
    call = call._replace(module=copied(call.module))
    fresh, module = _fresh(call), copied(call.module)
    with torch.no_grad(), kept_state(module, {}):
        module(*fresh.args, **fresh.kwargs)  # An error of the module is its own.
    with keywords_by_name(call.module, call.kwargs), quiet():
        for attempt in (_with_fewer_axes, _as_draft, _with_values):
            try:
                step = attempt(call, first)
                return step, finish(step.program)
            except Exception as error:
                first.add_note(f"{attempt.__name__.strip('_')}: {type(error).__name__}: {_line(error)}")
    raise first


def _fresh(call: ExportCall) -> ExportCall:
    """Return the call with new tensors: torch marks free axes on them, and leaves the marks if it fails.

    A tensor that occurs twice would be one input.
    """
    copied = _pytree.tree_map_only(
        torch.Tensor,
        lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad),
        (call.args, call.kwargs),
    )
    return call._replace(args=copied[0], kwargs=copied[1])


_OF_VALUES = SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT


class _Settings(NamedTuple):
    """How an export traces; see `_export`."""

    cut: Cut | tuple[Cut, ...] = "any"
    host: bool = True
    sizes: bool = True
    values: bool = False
    one: bool = True


_DEFAULT = _Settings()


def _export(call: ExportCall, shapes: Any, exporter: str = "export", settings: _Settings = _DEFAULT) -> Any:
    """Return the program of an export function of torch, right from size 1 on or if torch fails, from 2."""
    failed: dict[_Settings, Exception] = {}
    try:
        return _export_with(call, shapes, exporter, settings, failed)
    except ProgramError:
        raise
    except Exception as error:
        if _is_about_values(error):
            raise
        return _export_with(call, shapes, exporter, settings._replace(one=False), failed)


def _is_about_values(error: Exception) -> bool:
    """Return True for a condition on nothing but values of tensors, which other sizes do not decide."""
    symbols = error.cond.free_symbols if isinstance(error, GuardOnDataDependentSymNode) else ()
    return bool(symbols) and all(symbol_is_type(symbol, _OF_VALUES) for symbol in symbols)


def _reads_truth(error: Exception) -> bool:
    """Return True if code read the truth of a tensor, for which no symbol stands."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(getattr(frame.f_locals.get("func"), "__name__", "") == "__bool__" for frame in frames)


def _export_with(
    call: ExportCall, shapes: Any, exporter: str, settings: _Settings, failed: dict[_Settings, Exception]
) -> Any:
    """Return the program of an export function of torch; ``failed`` has the errors of other settings.

    A packed batch is cut after its longest sequence, unless the model has a condition on this length. A list
    of lengths stands for their tensor, unless the model needs a list. ``int`` of a value is symbolic where a
    model with packed sequences needs that, and where the program runs under ``jax.jit``. Other models get the
    example's value. ``int`` of a size is symbolic, unless torch does not take ours, for example as a dtype.
    """
    if settings in failed:
        raise failed[settings]
    tracing = PackedSequences(cut=settings.cut, host=settings.host)
    signatures = CallSignatures()
    fresh = _fresh(call)
    try:
        with (
            free_time(),
            sizes_from_one() if settings.one else contextlib.nullcontext(),
            recorded_lines(methods=signatures.methods),
            kept_state(call.module, call.changed),
            tensor_attributes(call.module),
            plain_results(call.module),
            SymbolicSizes(call.module, values=settings.values, as_list=tracing.as_list)
            if settings.sizes
            else contextlib.nullcontext(),
            KnownValues(call.module),
            byte_masks(),
            packed_sequences(call.module, tracing),
            SharedArrays(),
            signatures.recorded(call.module),
        ):
            export = getattr(torch.export, exporter)
            program = export(fresh.module, fresh.args, fresh.kwargs, dynamic_shapes=shapes, strict=False)
        program = with_parameters(program, call.module)
        program.graph_module.meta[SIGNATURES] = signatures.of(program)
        return program
    except ProgramError:
        raise
    except Exception as error:
        failed[settings] = error
        again = functools.partial(_export_with, call, shapes, exporter, failed=failed)
        is_unknown = isinstance(error, GuardOnDataDependentSymNode)
        if is_unknown and not settings.values and not _reads_truth(error):
            # torch takes int as a dtype, and not a class in its place.
            with contextlib.suppress(TypeError, GuardOnDataDependentSymNode):
                program = again(settings._replace(values=True))
                is_packed = any("jaxlstm" in str(node.target) for node in program.graph.nodes)
                if is_packed or call.runs(call, program):
                    return program
        if settings.cut == "any" and tracing.batches and is_unknown:
            return again(settings._replace(cut="none"))
        if settings.host and tracing.lists:
            return again(settings._replace(cut="any" if settings.cut == "none" else settings.cut, host=False))
        if settings.sizes and not is_unknown:
            return again(settings._replace(sizes=False))
        raise


def _shapes(call: ExportCall) -> Any:
    return free_axes(call) if call.shapes is None else call.shapes


def free_axes(call: ExportCall, kept: Callable[[str], bool] = lambda axis: True) -> Any:
    """Return dynamic shapes by which torch decides for each axis that is kept whether it can be free.

    ``kept`` takes torch's text of the size of an axis, such as ``L['x'].size()[1]``.
    """

    def axes(path: Any, value: Any) -> dict[int, Any] | None:
        if not isinstance(value, torch.Tensor):
            return None
        # torch fixes axes of size 0 and 1 in any case, and logs a warning if they are marked.
        sizes = enumerate(value.shape)
        return {n: torch.export.Dim.AUTO for n, size in sizes if size > 1 and kept(_size(path, n))}

    return _pytree.tree_map_with_path(axes, _bound(call))


def _bound(call: ExportCall) -> dict[str, Any]:
    return dict(inspect.signature(call.module.forward).bind(*call.args, **call.kwargs).arguments)


def _name(path: Any) -> str:
    """Return ``x`` or ``state[0]`` for the path of an argument."""
    return path[0].key + _pytree.keystr(path[1:])


def _size(path: Any, axis: int) -> str:
    return f"L[{path[0].key!r}]{_pytree.keystr(path[1:])}.size()[{axis}]"


def _with_fewer_axes(call: ExportCall, first: Exception) -> ExportStep:
    """Fix the axes that torch's error is about, or if it names none, all but the first of each tensor."""
    if call.shapes is not None:
        raise first
    leaves = _pytree.tree_flatten_with_path(_bound(call))[0]
    tensors = [(path, value) for path, value in leaves if isinstance(value, torch.Tensor)]
    axes = {_size(path, n): (n, _name(path)) for path, value in tensors for n in range(value.ndim)}
    inner = {size for size, (axis, _) in axes.items() if axis > 0}
    error, fixed = first, set[str]()
    while new := (_sizes_in(error) or inner) - fixed:
        fixed |= new
        try:
            program = _export(call, free_axes(call, (axes.keys() - fixed).__contains__))
        except Exception as other:  # Of torch, or of sympy in it.
            error = other
        else:
            parts = tuple(f"axis {axis} of {name}" for size, (axis, name) in axes.items() if size in fixed)
            reason = f"torch could not express the conditions on all axes ({_line(first)})"
            return ExportStep(program, parts, reason, has_sizes=True)
    raise error


def _sizes_in(error: Exception) -> set[str]:
    """Return torch's texts of the sizes in the expression at which torch gave up."""
    found: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        env, values = frame.f_locals.get("self"), frame.f_locals.values()
        if isinstance(env, ShapeEnv):
            symbols: set[Any] = set().union(*(getattr(v, "free_symbols", ()) for v in values))
            sources = {source.name for symbol in symbols for source in env.var_to_sources.get(symbol, ())}
            found = sources or found  # of the innermost frame
    return found


def _as_draft(call: ExportCall, first: Exception, given: tuple[bool, ...] = ()) -> ExportStep:
    """Decide conditions on values as the example does, except for the given first truths."""
    step = _draft(call, given, _DEFAULT)
    if step.truths is None:
        # Numbers that are not fixed may leave truths only.
        with contextlib.suppress(Exception):  # torch raises many types.
            symbolic = _draft(call, given, _Settings(values=True))
            if symbolic.truths is not None and call.runs(call, symbolic.program):
                return symbolic
    return step


def _draft(call: ExportCall, given: tuple[bool, ...], settings: _Settings) -> ExportStep:
    decisions = DraftDecisions(given)
    # torch leaves the values of parameters undefined. It would spend a third of its time on the stacks of
    # expressions, for a report that nobody reads.
    values = replaced(meta_utils, "_safe_copy", _copy_values)
    report = replaced(sym_node, "dtrace_structured", lambda *args, **kwargs: None)
    with decisions.recorded(), values, report:
        program = _export(call, _shapes(call), "draft_export", settings)
    decisions.name_lines(program)
    reason = "the model has conditions on values"
    return ExportStep(program, decisions.conditions, reason, truths=decisions.truths())


def _copy_values(to: torch.Tensor, source: torch.Tensor | None) -> None:
    if source is not None and type(source) in (torch.Tensor, torch.nn.Parameter):
        to.copy_(source.detach())


def _with_values(call: ExportCall, first: Exception) -> ExportStep:
    """Trace with the values of the example, and export the trace."""
    call = _fresh(call)
    module = call.module
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    leaves, in_spec = _pytree.tree_flatten((call.args, call.kwargs))
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    out_spec: Any = None
    constants: list[Any] = []

    def run(state: dict[str, Any], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        nonlocal out_spec, constants
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        args, kwargs = _pytree.tree_unflatten(given, in_spec)
        before = {**state}
        constants, out_spec = _pytree.tree_flatten(
            torch.func.functional_call(module, state, args, kwargs, tie_weights=True)
        )
        # A buffer that forward replaces is new in `state`, and may be the former tensor of another.
        new = {name: tensor.clone() for name, tensor in state.items() if tensor is not before[name]}
        for name, tensor in new.items():
            if (tensor.shape, tensor.dtype) == (before[name].shape, before[name].dtype):
                before[name].copy_(tensor)
            else:
                call.changed.setdefault(f"self.{name}", "")
        return [leaf for leaf in constants if isinstance(leaf, torch.Tensor)]

    with (
        kept_state(module, call.changed),
        tensor_attributes(module),
        FixedValues() as values,
        packed_sequences(module, PackedSequences(cut="any")),
        plain_results(module),
        SharedArrays(),
    ):
        examples = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in state.items()
        }
        known = inspect.signature(make_fx).parameters.keys() & {"record_stack_traces"}  # torch 2.6 lacks it
        lines: Any = dict.fromkeys(known, True)
        trace = make_fx(run, tracing_mode="real", pre_dispatch=True, **lines)
        with recorded_lines(), recorded_calls(module):
            traced = trace(examples, [leaves[n] for n in places])

    values.require_known(traced, module)
    sizes = TracedSizes(traced)

    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        present = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with fx_traceback.preserve_node_meta():
            results = iter(sizes.run({name: present[name] for name in examples}, tensors))
        filled = [next(results) if isinstance(leaf, torch.Tensor) else leaf for leaf in constants]
        return _pytree.tree_unflatten(filled, out_spec)

    forward.__signature__ = inspect.signature(call.module.forward)  # type: ignore[attr-defined]
    fresh = _fresh(call)
    with (
        free_time(),
        recorded_lines(lambda: sizes.line),
        replaced(type(module), "__call__", torch.nn.Module.__call__),  # its own is in the trace
        mock.patch.object(module, "forward", forward),
    ):
        program = torch.export.export(module, fresh.args, fresh.kwargs, strict=False)
        program = with_parameters(program, module)
    fixed = ("the sizes of all inputs", *dict.fromkeys((*values.fixed, *sizes.fixed)))
    return ExportStep(program, fixed, f"torch.export failed ({_line(first)})", has_sizes=True)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
