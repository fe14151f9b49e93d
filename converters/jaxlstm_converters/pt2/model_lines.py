"""The lines of a model's code that fix sizes: why an axis has one size, and where a condition comes from."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CONVERTERS = os.path.dirname(os.path.dirname(__file__))


@contextlib.contextmanager
def recorded_lines() -> Iterator[None]:
    """Let exports inside the block record the line of the model's code with each condition on sizes.

    By default torch records a line of its own code for most of them.
    """
    from torch._guards import SLoc
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def get_sloc(self: Any, framework_loc: str | None = None) -> SLoc:
        return SLoc(framework_loc or "", _line_of_model())

    original = ShapeEnv._get_sloc
    ShapeEnv._get_sloc = get_sloc  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShapeEnv._get_sloc = original  # type: ignore[method-assign]


def _line_of_model() -> str | None:
    """Return the innermost line on the stack that is neither torch's nor ours, or None."""
    import torch

    frame: FrameType | None = sys._getframe(2)
    while frame := frame.f_back:
        path = frame.f_code.co_filename
        if path.startswith(_CONVERTERS):
            return None
        # Generated code has names such as "<eval_with_key>.1".
        if not path.startswith((os.path.dirname(torch.__file__), "<")) and not _is_standard(path):
            line = linecache.getline(path, frame.f_lineno).strip()
            return f"{os.path.basename(path)}:{frame.f_lineno}: {line}"
    return None


def _is_standard(path: str) -> bool:
    return path.startswith(os.path.dirname(os.__file__)) and "site-packages" not in path


def condition_lines(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """Return the line of each condition, by the text that torch writes for it."""
    from torch.fx.experimental.symbolic_shapes import ShapeGuardPythonPrinter

    shape_env = _shape_env(exported)
    if shape_env is None:
        return {}
    sources = shape_env.var_to_sources
    printer = ShapeGuardPythonPrinter(sources, lambda source: source.name, sources)
    return {
        printer.doprint(guard.expr): guard.sloc.maybe_user_loc
        for guard in shape_env.guards
        if guard.sloc.maybe_user_loc and guard.expr.free_symbols <= set(sources)
    }


def fixed_axis_lines(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """Return why axes are fixed that were to be free, by axis as ``"L['x'].size()[1]"``."""
    shape_env = _shape_env(exported)
    if shape_env is None:
        return {}
    lines = {}
    for symbol, sources in shape_env.var_to_sources.items():
        replaced, place = shape_env.replacements.get(symbol), shape_env.replacements_slocs.get(symbol)
        if replaced is not None and replaced.is_number and place is not None and place.maybe_user_loc:
            lines[sources[0].name] = place.maybe_user_loc
    return lines


def _shape_env(exported: torch.export.ExportedProgram) -> Any:
    for node in exported.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            return mode.shape_env
    return None
