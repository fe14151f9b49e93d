"""Runs of a torch module in which some operations are replaced, and the faults that can be planted in it.

The modules imported here register the faults of their operations. ``torch.overrides.TorchFunctionMode`` sees
every call of a torch function, whether a module or the user's ``forward`` makes it. A site is a place in the
code that calls a known operation, with the path of the module: a loop over time steps is at one site.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case, LayerRecord
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_faults import arithmetic, layers, sequences
from jaxlstm.check.reference.torch_faults.operation import (
    FAULTS,
    Operation,
    Replacement,
    Variant,
    name_of,
    operation_of,
)
from jaxlstm.check.reference.torch_layers import recording
from jaxlstm.check.reference.torch_model import TorchModel, arrays_of, call_module, pinned, tensors_of

_MODULES = (arithmetic, layers, sequences)

Site = tuple[Any, ...]
"""The path of a module, the name of an operation, and the instructions that are running, outwards."""


def variants(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an operation."""
    return (variant for variants in FAULTS[operation.name] for variant in variants(operation))


@dataclass(frozen=True)
class PlantedFault:
    """Replacements of operations by site, and the fault in words; ``traced`` ones read earlier results."""

    cause: str
    replacements: Mapping[Site, Replacement]
    traced: bool = False
    rounding = False


def planted_faults(run: PlantedRun, first: str = "") -> Iterator[PlantedFault]:
    """Yield every fault of one site, then the same fault at every site of a kind.

    Sites in the module ``first`` come first, then those below it.
    """
    sites = sorted(run.operations.items(), key=lambda item: _rank(item[1].path, first))
    by_cause: dict[tuple[str, str], dict[Site, Replacement]] = {}
    places = _places(run)
    for site, operation in sites:
        for variant in variants(operation):
            cause = variant.cause.format(where=places[site])
            yield PlantedFault(cause, {site: variant.apply}, variant.traced)
            if not variant.traced:
                by_cause.setdefault((operation.name, variant.cause), {})[site] = variant.apply
    for (name, cause), replacements in by_cause.items():
        if len(replacements) > 1:
            yield PlantedFault(cause.format(where=f"every {name}"), replacements)


def confused(run: PlantedRun, first: str = "") -> Iterator[PlantedFault]:
    """Yield the faults of weights and values that are taken for others."""
    yield from _confused_weights(run, _places(run))
    yield from _confused_values(run, _places(run), first)


def _places(run: PlantedRun) -> dict[Site, str]:
    """Return the sites in words, with the line if the path and the name are ambiguous."""
    counts = Counter(op.where for op in run.operations.values())
    return {
        s: op.where + (f", {op.line}" if counts[op.where] > 1 else "") for s, op in run.operations.items()
    }


def _rank(path: str, first: str) -> int:
    return 0 if path == first else 1 if path.startswith(f"{first}.") else 2


def _confused_weights(run: PlantedRun, places: Mapping[Site, str]) -> Iterator[PlantedFault]:
    """Yield the faults of a linear layer with the weights of another one of the same shape."""
    linear = [(site, op) for site, op in run.operations.items() if op.name == "linear"]
    for (a, ours), (b, theirs) in itertools.combinations(linear, 2):
        if ours.get("weight").shape == theirs.get("weight").shape and ours.path != theirs.path:
            exchanged = {a: _with_weights_of(theirs), b: _with_weights_of(ours)}
            for site, source in ((a, b), (b, a)):
                cause = f"the weights of {places[site]} are those of {places[source]}"
                yield PlantedFault(cause, {site: exchanged[site]})
            yield PlantedFault(f"the weights of {places[a]} and {places[b]} are exchanged", exchanged)


def _with_weights_of(source: Operation) -> Replacement:
    return lambda op: op.run(weight=source.get("weight"), bias=source.get("bias"))


def _confused_values(run: PlantedRun, places: Mapping[Site, str], first: str) -> Iterator[PlantedFault]:
    """Yield the faults of an operand that is another value of the same shape in the same module or around it.

    The value is the latest one: of the step before, if the step has not computed it yet.
    """
    values: dict[tuple[Site, str], Any] = {(site, ""): result for site, (_, result) in run.latest.items()}
    uses: dict[int, list[tuple[Site, str]]] = {}
    for site, (operation, _) in run.latest.items():
        for name, value in _operands(operation).items():
            values[site, name] = value
            if name in operation.arguments:
                uses.setdefault(id(value), []).append((site, name))
    order = {site: position for position, site in enumerate(run.operations)}
    for consumers in sorted(uses.values(), key=lambda users: _rank(users[0][0][0], first)):
        operand, (consumer, _) = values[consumers[0]], consumers[0]
        tried = {(id(operand), True), (id(operand), False)}
        for (source, name), value in values.items():
            key = id(value), order[source] < order[consumer]  # Of this step, or of the one before.
            is_around = consumer[0].startswith(source[0])
            if not is_around or key in tried or getattr(value, "shape", None) != operand.shape:
                continue
            tried.add(key)
            for part in ([consumers] if len(consumers) > 1 else []) + [[use] for use in consumers]:
                replacement = f"the {name} of {places[source]}" if name else f"the result of {places[source]}"
                operands = " and ".join(f"the {argument} of {places[site]}" for site, argument in part)
                replaced = {site: _with_value(argument, source, name) for site, argument in part}
                yield PlantedFault(f"{operands} is {replacement}", replaced, traced=True)


def _operands(operation: Operation) -> dict[str, Any]:
    """Return the tensors that an operation takes, except weights; the parts of ``cat`` are numbered."""
    operands = {name: operation.get(name) for name in ("input", "other", "end")}
    parts = {f"part {number}": part for number, part in enumerate(operation.get("tensors", ()))}
    return {name: value for name, value in (operands | parts).items() if getattr(value, "ndim", 0)}


def _with_value(argument: str, source: Site, name: str) -> Replacement:
    def apply(operation: Operation) -> Any:
        producer, result = operation.latest.get(source, (None, None))
        value = _operands(producer).get(name) if producer is not None and name else result
        return operation.run() if value is None else operation.run(**{argument: value})

    return apply


@dataclass
class PlantedRun:
    """A run of a module with some operations replaced.

    Attributes:
      outputs: the outputs by name, or None if the module raised.
      operations: the first operation at each site, before its replacement.
      latest: the last one and its result.
      layers: the calls of submodules, if they were recorded.
    """

    outputs: dict[str, np.ndarray] | None = None
    operations: dict[Site, Operation] = field(default_factory=dict)
    latest: dict[Site, tuple[Operation, Any]] = field(default_factory=dict)
    layers: list[LayerRecord] = field(default_factory=list)


def run_planted(
    model: TorchModel,
    case: Case,
    dtype: Any,
    replacements: Mapping[Site, Replacement],
    *,
    record: bool = False,
    traced: bool = False,
) -> PlantedRun:
    """Run a module with the operations at some sites replaced.

    ``record`` keeps the layers, and ``traced`` the operations. A replacement may not fit, so that the module
    raises. The run then ends there.
    """
    import torch

    module, planted = model.module(dtype), PlantedRun()
    args, kwargs, _ = tensors_of(case.astype(dtype))
    with recording(module, planted.layers if record else None) as stack, pinned(dtype), torch.no_grad():
        with _mode(stack, replacements, planted, traced):
            try:
                returned = call_module(module, args, kwargs)
            except PORT_EXCEPTIONS:
                return planted
        planted.outputs = arrays_of(returned)
    return planted


def _mode(
    stack: list[str], replacements: Mapping[Site, Replacement], planted: PlantedRun, traced: bool
) -> Any:
    """Return a context that replaces operations and, if ``traced``, keeps them."""
    from torch.overrides import TorchFunctionMode

    watched = FAULTS if traced else {site[1] for site in replacements}

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            name, kwargs = name_of(func), kwargs or {}
            if name not in watched:
                return func(*args, **kwargs)
            site = (stack[-1], name, *_instructions())
            if not traced and site not in replacements:
                return func(*args, **kwargs)
            operation = operation_of(name, stack[-1], func, args, kwargs)
            operation = replace(operation, latest=planted.latest)
            result = replacements[site](operation) if site in replacements else func(*args, **kwargs)
            if traced:
                planted.latest[site] = operation, result
                if site not in planted.operations:
                    planted.operations[site] = replace(operation, line=_line())
            return result

    return Mode()


def _instructions() -> Iterator[int]:
    """Yield the code and the instruction of each frame from a torch function to the run.

    The frames between two modules depend on hooks.
    """
    frame, calls = sys._getframe(2), sys.modules["torch.nn.modules.module"].__file__
    while frame is not None and frame.f_code is not run_planted.__code__:
        if frame.f_code.co_filename != calls:
            yield id(frame.f_code)
            yield frame.f_lasti
        frame = frame.f_back


def _line() -> str:
    """Return the file and line that calls a torch function, outside of torch."""
    frame, inside = sys._getframe(2), str(Path(str(sys.modules["torch"].__file__)).parent)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
