"""Runs of a torch module in which some operations are replaced, and the faults that can be planted in it.

The modules imported here register the faults of their operations. ``torch.overrides.TorchFunctionMode`` sees
every call of a torch function, whether a module or the user's ``forward`` makes it. A run counts the calls of
known operations. A site is the number of such a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm.check.cases.case import Case, LayerRecord
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.torch_faults import layers, sequences
from jaxlstm.check.reference.torch_faults.operation import (
    FAULTS,
    Operation,
    Replacement,
    Variant,
    name_of,
    operation_of,
)
from jaxlstm.check.reference.torch_layers import recording
from jaxlstm.check.reference.torch_model import TorchModel, arrays_of, pinned, tensors_of

if TYPE_CHECKING:
    import torch


_MODULES = (layers, sequences)


def variants(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of an operation."""
    return (variant for variants in FAULTS[operation.name] for variant in variants(operation))


@dataclass(frozen=True)
class PlantedFault:
    """Replacements of operations by site, and the fault in words."""

    cause: str
    replacements: Mapping[int, Replacement]
    rounding = False


def planted_faults(operations: Sequence[Operation]) -> Iterator[PlantedFault]:
    """Yield every fault of one operation, then the same fault at every operation of a kind."""
    alike: dict[tuple[str, str], dict[int, Replacement]] = {}
    for site, operation in enumerate(operations):
        for variant in variants(operation):
            yield PlantedFault(variant.cause.format(where=operation.where), {site: variant.apply})
            alike.setdefault((operation.name, variant.cause), {})[site] = variant.apply
    for (name, cause), sites in alike.items():
        if len(sites) > 1:
            yield PlantedFault(cause.format(where=f"every {name}"), sites)


@dataclass
class PlantedRun:
    """A run of a module with some operations replaced.

    Attributes:
      outputs: the outputs by name, or None if the module raised.
      operations: the operations before their replacement, by site.
      layers: the calls of submodules, if they were recorded.
    """

    outputs: dict[str, np.ndarray] | None = None
    operations: list[Operation] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)


def run_planted(
    model: TorchModel,
    case: Case,
    dtype: Any,
    replacements: Mapping[int, Replacement],
    *,
    record: bool = False,
) -> PlantedRun:
    """Run a module with the operations at some sites replaced.

    A replacement may not fit, so that the module raises. The run then ends there.
    """
    import torch

    module, planted = model.module(dtype), PlantedRun()
    args, kwargs, _ = tensors_of(case.astype(dtype))
    recorded = recording(module, planted.layers) if record else contextlib.nullcontext()
    with recorded, _module_paths(module) as stack, pinned(dtype), torch.no_grad():
        with _mode(stack, replacements, planted.operations):
            try:
                returned = module(*args, **kwargs)
            except PORT_EXCEPTIONS:
                return planted
        planted.outputs = arrays_of(returned)
    return planted


def _mode(stack: list[str], replacements: Mapping[int, Replacement], operations: list[Operation]) -> Any:
    """Return a context that replaces operations and lists them."""
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            name, kwargs = name_of(func), kwargs or {}
            if name not in FAULTS:
                return func(*args, **kwargs)
            site = len(operations)
            operations.append(operation_of(name, stack[-1], func, args, kwargs))
            if site in replacements:
                return replacements[site](operations[site])
            return func(*args, **kwargs)

    return Mode()


@contextlib.contextmanager
def _module_paths(module: torch.nn.Module) -> Iterator[list[str]]:
    """Keep a stack of the paths of the running modules."""
    stack, handles = [""], []
    for path, submodule in module.named_modules():
        if path:
            handles += [
                submodule.register_forward_pre_hook(lambda *_, path=path: stack.append(path)),
                submodule.register_forward_hook(lambda *_: stack.pop() and None, always_call=True),
            ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
