"""The lines of a model's code from which the conditions on sizes of an export come."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from traceback import FrameSummary, StackSummary
from types import FrameType
from typing import TYPE_CHECKING, Any

from jaxlstm._shared import own_thread, torch_methods
from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.torchscript.text import line_of

if TYPE_CHECKING:
    import torch

_PT2 = os.path.dirname(os.path.dirname(__file__))
_FROM_MODULE = os.path.join(_PT2, "_from_module.py")
_CALL_SIGNATURES = os.path.join(os.path.dirname(__file__), "call_signatures.py")
_INTERPRETER = os.path.join(os.path.dirname(_PT2), "torchscript")


@contextlib.contextmanager
def recorded_lines(
    line: Callable[[], str | None] | None = None, methods: Sequence[str] = ()
) -> Iterator[None]:
    """Let exports inside the block record lines of the model's code: with each node, and condition on sizes.

    By default torch mostly records lines of torch with conditions, and lines of ``forward`` with nodes.
    ``line`` returns the present line; it defaults to `line_of_model`. ``methods`` has the calls of methods
    that run at present, see `CallSignatures`.
    """
    line = line or line_of_model
    from torch._guards import SLoc
    from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files
    from torch.fx.proxy import TracerBase

    def get_sloc(self: Any, framework_loc: str | None = None) -> SLoc:
        return SLoc(framework_loc or "", line())

    def user_frames(self: Any, frames: Iterable[FrameSummary]) -> StackSummary:
        shown = (frame for frame in frames if frame.filename not in uninteresting_files())
        return StackSummary.from_list(_lines_of_forwards(shown, methods))

    with (
        replaced(ShapeEnv, "_get_sloc", get_sloc),
        replaced(TracerBase, "_filter_traceback_frames", user_frames),
    ):
        yield


@contextlib.contextmanager
def recorded_calls(module: torch.nn.Module) -> Iterator[None]:
    """Let a trace inside the block record the calls of modules with each node, as an export does."""
    from torch.fx import traceback

    stack: dict[str, tuple[str, str]] = {}
    counts: dict[str, int] = {}
    removed = contextlib.ExitStack()

    def enter(path: str, part: torch.nn.Module) -> None:
        counts[path] = counts.get(path, -1) + 1
        key = f"L__self__{path}" + (f"@{counts[path]}" if counts[path] else "")
        stack[key] = path, f"{type(part).__module__}.{type(part).__qualname__}"
        traceback.current_meta["nn_module_stack"] = dict(stack)

    def leave() -> None:
        stack.popitem()
        traceback.current_meta["nn_module_stack"] = dict(stack)

    with removed, traceback.preserve_node_meta():
        for path, part in module.named_modules():
            before = part.register_forward_pre_hook(lambda part, args, path=path: enter(path, part))
            after = part.register_forward_hook(lambda part, args, result: leave(), always_call=True)
            removed.callback(before.remove)
            removed.callback(after.remove)
        yield


def _lines_of_forwards(frames: Iterable[FrameSummary], methods: Iterable[str]) -> list[FrameSummary]:
    """Return the frame of each ``forward`` and method with one statement: its own, or of a function in it.

    A ``return`` gives its value to the statement that called the function. A method that is exported in place
    of ``forward`` counts as one.
    """
    found: list[FrameSummary] = []
    is_method, running, name = False, iter(methods), ""
    for frame in frames:
        if frame.filename == _CALL_SIGNATURES and frame.name == "run_method":
            name = f"method {next(running, '')}"
            continue
        if frame.filename == torch_methods.__file__:
            is_method = True
            continue
        is_own = (is_method or name) and is_of_model(frame.filename)
        is_forward = frame.name == "forward" or is_own
        is_method = is_method and not is_forward
        if not is_forward and not (found and is_of_model(frame.filename)):
            continue
        statement = _statements(frame.filename).get(frame.lineno or 0, frame.line or "")
        if not is_forward and (frame.name == "<lambda>" or statement.startswith("return")):
            continue
        shown = name or ("forward" if is_forward else found[-1].name)
        found, name = found if is_forward else found[:-1], ""
        found.append(FrameSummary(frame.filename, frame.lineno, shown, line=statement))
    return found


@functools.lru_cache(maxsize=256)
def _statements(path: str) -> dict[int, str]:
    """Return the number of each line of a file -> the innermost statement there, on one line."""
    lines = linecache.getlines(path)
    found: dict[int, str] = {}
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found |= dict.fromkeys(numbers, " ".join(lines[number - 1].strip() for number in numbers))
    return found


def calling_frame() -> FrameType | None:
    """Return the innermost frame outside of the modes of torch, seen from a caller in one."""
    frame: FrameType | None = sys._getframe(2)
    while frame and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame


def frame_of_model() -> FrameType | None:
    """Return the innermost frame on the stack that is neither torch's nor ours, or None."""
    frame: FrameType | None = sys._getframe(1)
    while (frame := frame.f_back) and frame.f_code.co_filename != _FROM_MODULE:
        if is_of_model(frame.f_code.co_filename) or is_statement(frame):
            return frame
    return None


def is_statement(frame: FrameType) -> bool:
    """Return True for the frame of a statement that the interpreter of TorchScript runs."""
    code = frame.f_code
    return code.co_name == "run_statements" and code.co_filename.startswith(_INTERPRETER)


def line_of_model() -> str | None:
    """Return the innermost line on the stack that is neither torch's nor ours, or None."""
    frame = frame_of_model()
    return _shown(frame) if frame else None


def _shown(frame: FrameType) -> str:
    if is_statement(frame):
        return line_of(frame.f_locals["self"].function.file, frame.f_locals["node"])
    path = frame.f_code.co_filename
    line = linecache.getline(path, frame.f_lineno).strip()
    return f"{os.path.basename(path)}:{frame.f_lineno}: {line}"


def asserted_truth() -> tuple[bool, str] | None:
    """Return the truth that an ``assert``, or an ``if`` before a ``raise``, needs here, and its line."""
    frame = calling_frame()
    if frame is None:
        return None
    line = frame.f_lineno
    for test, truth in _asserted(frame.f_code.co_filename):
        if test.lineno <= line <= (test.end_lineno or line):
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                truth, test = not truth, test.operand
            return (truth, _shown(frame)) if _is_clear(test, truth) else None
    return None


@functools.cache
def _asserted(path: str) -> list[tuple[ast.expr, bool]]:
    """Return the conditions of a file on which it raises an error, with their truth if it does not."""
    return [
        (node.test, isinstance(node, ast.Assert))
        for node in ast.walk(ast.parse("".join(linecache.getlines(path))))
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.If) and _ERROR.match(ast.unparse(node.body[0])))
    ]


# Other exceptions, such as StopIteration, are control flow.
_ERROR = re.compile(r"raise [\w.]*(Error|Exception)\b")


def _is_clear(test: ast.expr, truth: bool) -> bool:
    """Return True if an expression with this truth reads only tensors that must have it too."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And if truth else ast.Or):
        return all(_is_clear(value, truth) for value in test.values)
    other = (ast.BoolOp, ast.Not, ast.IfExp, ast.comprehension, ast.Lambda)
    parts = list(ast.walk(test))
    is_function = any(isinstance(part, ast.Call) and isinstance(part.func, ast.Name) for part in parts)
    return not is_function and not any(isinstance(part, other) for part in parts)


@functools.cache
def is_of_model(path: str) -> bool:
    """Return True for a file that is neither torch's nor Python's nor ours."""
    import torch

    # Generated code has names such as "<eval_with_key>.1".
    ours = (_PT2, _INTERPRETER, os.path.dirname(own_thread.__file__))
    libraries = (os.path.dirname(torch.__file__), *ours, "<")
    is_standard = path.startswith(os.path.dirname(os.__file__)) and "site-packages" not in path
    return not path.startswith(libraries) and not is_standard


def condition_lines(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """Return the line of each condition on sizes, by torch's text of the condition."""
    from torch.fx.experimental.symbolic_shapes import ShapeGuardPythonPrinter

    shape_env = _shape_env(exported)
    if shape_env is None:
        return {}
    sources = shape_env.var_to_sources
    printer = ShapeGuardPythonPrinter(sources, lambda source: source.name, sources)
    # A value of the model may fix a size. Then no condition on sizes exists.
    lines = {
        f"{source.name} == {size}": shape_env.replacements_slocs[symbol].maybe_user_loc
        for symbol, size in shape_env.replacements.items()
        if size.is_Integer and symbol in shape_env.replacements_slocs
        for source in sources.get(symbol, ())
    } | {
        printer.doprint(guard.expr): guard.sloc.maybe_user_loc
        for guard in shape_env.guards
        if guard.sloc.maybe_user_loc and guard.expr.free_symbols <= set(sources)
    }
    return {condition: line for condition, line in lines.items() if line}


def _shape_env(exported: torch.export.ExportedProgram) -> Any:
    for node in exported.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            return mode.shape_env
    return None
