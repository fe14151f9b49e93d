"""The interpreter of the functions and methods of an archive, with limits on what one call may do."""

from __future__ import annotations

import ast
import threading
from collections.abc import Mapping
from typing import Any

from .containers import from_bytes, mapped, to_bytes
from .frames import Frame
from .sizes import plain
from .text import ScriptFunction, ScriptText, refused
from .types import with_type

MAX_STEPS = 10_000_000
"""Statements that one call from Python may run."""
MAX_CALLS = 50
"""Calls of methods and functions inside of each other."""


class Interpreter:
    """Runs the functions and methods of an archive.

    Attributes:
        text: the classes and functions.
        constants: name -> value of CONSTANTS.
        version: the version of the archive.
    """

    __slots__ = ("_state", "constants", "text", "version")

    def __init__(self, text: ScriptText, constants: Mapping[str, Any], version: int) -> None:
        self.text, self.constants, self.version = text, constants, version
        self._state = threading.local()

    def run(
        self, function: ScriptFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], owner: Any = None
    ) -> Any:
        """Return the result of a function, or of a method of its owner."""
        state = self._state
        depth = getattr(state, "depth", 0)
        if depth >= MAX_CALLS:
            raise refused(function.file, function.node, f"more than {MAX_CALLS} calls inside of each other")
        if not depth:
            args, kwargs, state.steps = mapped(args, to_bytes), mapped(dict(kwargs), to_bytes), 0
        state.depth = depth + 1
        try:
            frame = Frame(self, function, self._bound(function, args, kwargs, checked=not depth))
            if function.is_method:
                frame.names[function.node.args.args[0].arg] = owner
            returned = frame.run_statements(function.node.body)
        finally:
            state.depth = depth
        result = returned.value if returned else None
        return result if depth else mapped(result, lambda value: from_bytes(plain([value])[0]))

    def count_step(self, function: ScriptFunction, node: ast.stmt) -> None:
        """Count one statement."""
        self._state.steps += 1
        if self._state.steps > MAX_STEPS:
            raise refused(function.file, node, f"a call runs more than {MAX_STEPS} statements")

    def _bound(
        self, function: ScriptFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, checked: bool
    ) -> dict[str, Any]:
        names = [name for name, *_ in function.parameters]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) + len(kwargs) != len(given) or not given.keys() <= set(names):
            raise TypeError(f"got {len(args)} arguments and {[*kwargs]}, expected {function.signature}")
        for name, kind, default in function.parameters:
            if name not in given:
                if default is None:
                    raise TypeError(f"the argument {name!r} is missing, expected {function.signature}")
                given[name] = self.default(function, default)
            if checked:
                given[name] = with_type(given[name], kind, f"{function.node.name}: {name}")
        return given

    def default(self, function: ScriptFunction, node: ast.expr) -> Any:
        """Return the value of a default or constant."""
        return Frame(self, function, {}).value(node)
