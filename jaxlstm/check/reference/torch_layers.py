"""The layers of a torch module in one run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm._shared.torch_tensors import tensor_to_numpy
from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import LayerRecord
from jaxlstm.check.reference.torch_model import TorchModel, arrays_of, pinned, tensors_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


def record_torch_layers(model: TorchModel, case: Case, dtype: Any) -> list[LayerRecord]:
    """Run a module in ``dtype`` and return every call of a submodule, in the order in which they return."""
    import torch

    module, records = model.module(dtype), list[LayerRecord]()
    args, kwargs, _ = tensors_of(case.astype(dtype))
    with recording(module, records), pinned(dtype), torch.no_grad():
        module(*args, **kwargs)
    return records


@contextlib.contextmanager
def recording(module: torch.nn.Module, records: list[LayerRecord]) -> Iterator[None]:
    """Append every call of a submodule to ``records`` within a context."""

    def keep(path: str) -> Any:
        def hook(layer: Any, args: Any, kwargs: Any, returned: Any) -> None:
            inputs, outputs = _copies([*args, kwargs]), _copies(returned)
            ragged = _is_packed(returned) or any(map(_is_packed, args))
            records.append(LayerRecord(path, type(layer).__name__, tuple(inputs), tuple(outputs), ragged))

        return hook

    handles = [
        submodule.register_forward_hook(keep(path), with_kwargs=True)
        for path, submodule in module.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copies(tree: Any) -> list[Array]:
    """Return copies of the tensors of a tree, because a later operation may work in place.

    Packed sequences become time-major arrays with NaN in the padding.
    """
    from torch.nn.utils import rnn

    if isinstance(tree, rnn.PackedSequence):
        return [tensor_to_numpy(rnn.pad_packed_sequence(tree, padding_value=math.nan)[0])]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [copy for entry in tree for copy in _copies(entry)]
    arrays = arrays_of(tree).values()
    return [np.array(a) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"]


def _is_packed(value: Any) -> bool:
    from torch.nn.utils import rnn

    first = value[0] if type(value) is tuple and value else value
    return isinstance(first, rnn.PackedSequence)
