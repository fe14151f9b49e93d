"""Operators that a program lacks, which torch composes of others that it has."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.fx.experimental import proxy_tensor

from jaxlstm._shared.own_thread import replaced
from jaxlstm.programs.operators.registry import find_operator, refusal


@contextlib.contextmanager
def decomposed() -> Iterator[None]:
    """Let traces hold the parts of an operator that is not registered, where torch knows them."""
    original = proxy_tensor.maybe_handle_decomp

    def parts(mode: Any, operator: Any, args: Any, kwargs: Any) -> Any:
        function = _composed(operator) if isinstance(operator, torch._ops.OpOverload) else None
        if function is None:
            return original(mode, operator, args, kwargs)
        with mode:
            return function(*args, **kwargs)

    with replaced(proxy_tensor, "maybe_handle_decomp", parts):
        yield


def _composed(operator: torch._ops.OpOverload) -> Callable[..., Any] | None:
    """Return torch's function that computes an unknown operator by others, or None."""
    name = str(operator)
    if operator.namespace != "aten" or find_operator(name) or refusal(name):
        return None
    schema = operator._schema
    if schema.is_mutable or not all("Tensor" in str(result.type) for result in schema.returns):
        return None
    kernel = "CompositeImplicitAutograd"
    if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), kernel):
        return operator.decompose
    return decomposition_table.get(operator)
