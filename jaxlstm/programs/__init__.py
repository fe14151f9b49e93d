"""Whole models: the graph of an exported PyTorch program, and the operators that run it in JAX.

The names below are imported on first use, so that the graph is available without JAX.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names

if TYPE_CHECKING:
    from jaxlstm.programs._call import call as call
    from jaxlstm.programs.errors import ProgramError as ProgramError
    from jaxlstm.programs.operators.registry import Options as Options
    from jaxlstm.programs.operators.registry import register_operator as register_operator
    from jaxlstm.programs.program import Program as Program

__all__, __getattr__, __dir__ = lazy_names(__name__)  # pyright: ignore[reportUnsupportedDunderAll]
