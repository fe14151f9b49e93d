"""The layers of a torch module in one run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm.check.model.layers import LayerRecord
from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.reference.torch_model import TorchModel, arrays_of, pinned, tensors_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


def record_torch_layers(model: TorchModel, case: ModelCase, dtype: Any) -> list[LayerRecord]:
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
            inputs = tuple(_copies(args) + _copies(kwargs))
            records.append(LayerRecord(path, type(layer).__name__, inputs, tuple(_copies(returned))))

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
    """Return copies of the tensors of a tree, because a later operation may work in place."""
    arrays = arrays_of(tree).values()
    return [np.array(a) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"]
