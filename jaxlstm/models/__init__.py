"""Whole models: the graph of an exported PyTorch program, and the operators that run it in JAX.

The names below are imported on first use, so that the graph is available without JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlstm.models.errors import ProgramError as ProgramError
    from jaxlstm.models.operators.registry import Options as Options
    from jaxlstm.models.operators.registry import register_operator as register_operator
    from jaxlstm.models.program import Program as Program

__all__ = ["Options", "Program", "ProgramError", "register_operator"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "Program":
        from jaxlstm.models import program as module
    elif name == "ProgramError":
        from jaxlstm.models import errors as module
    elif name in ("Options", "register_operator"):
        from jaxlstm.models.operators import registry as module
    else:
        raise AttributeError(f"module 'jaxlstm.models' has no attribute {name!r}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
