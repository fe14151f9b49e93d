"""The calls of modules that led to a node, from the texts that torch records as its metadata."""

import os
import re
from collections.abc import Iterator
from typing import Any

from jaxlstm.programs.graph import ModuleCall
from jaxlstm_converters.checkpoint.errors import printable

_HERE = os.path.dirname(__file__)
_SLICE = re.compile(r"slice\((?:None|([0-9]{1,9})), (?:None|-?[0-9]{1,9}), (?:None|1)\)\.([0-9]{1,9})")
# torch also records its own functions; only the frames of "forward" have a module each.
_FRAME = "in forward"


def read_calls(metadata: Any) -> tuple[ModuleCall, ...]:
    """Return the calls of the stack "key,path,class;key,path,class;...", outermost first.

    Nodes that torch inserted have a stack of placeholders, and no calls.
    """
    entries = [_parts(entry) for entry in _text(metadata, "nn_module_stack").split(";")]
    if any(len(entry) < 3 or entry[0] == entry[1] for entry in entries):
        return ()
    lines = _lines_of_modules([line for _, line in _frames(_text(metadata, "stack_trace"))])
    lines += [""] * (len(entries) - len(lines))
    calls: list[ModuleCall] = []
    for entry, line in zip(entries, lines, strict=False):
        key, path = printable(entry[0].removeprefix("L__self__"), 1_000), printable(entry[1], 1_000)
        if calls and calls[-1].path == path:  # A method calls its own module.
            calls[-1] = calls[-1]._replace(line=line)
        elif "slice(" not in entry[1]:  # from the end of a list, whose length is not known
            calls.append(ModuleCall(key, path, printable(entry[-1], 1_000), line))
    return tuple(calls)


def _parts(entry: str) -> list[str]:
    """Return key, path and class. A module of a slice of a list may be "layers.slice(1, None, None).0"."""
    parts = entry.split(",")
    if len(parts) % 2 == 0:
        return parts
    half = len(parts) // 2
    path = _SLICE.sub(lambda m: str(int(m[1] or 0) + int(m[2])), ",".join(parts[half:-1]))
    return [",".join(parts[:half]), path, parts[-1]]


def without_paths(stack_trace: str) -> str:
    """Return the text of a stack with the lines of code only, which `read_calls` reads alike."""
    frames = [line for head, line in _frames(stack_trace) if f'"{_HERE}{os.sep}' not in head]
    return "\n".join(f"{_FRAME}\n    {line}" for line in frames)


def _text(metadata: Any, name: str) -> str:
    text = metadata.get(name, "") if isinstance(metadata, dict) else ""
    return text if type(text) is str else ""


def _frames(stack_trace: str) -> Iterator[tuple[str, str]]:
    """Yield the heading of each frame of a "forward", and its line of the user's code, "" if it has none."""
    texts = stack_trace.split("\n")
    for head, line in zip(texts, [*texts[1:], ""], strict=True):
        if head.endswith(_FRAME) and not head.startswith("    "):
            # torch's generated code has names such as "<eval_with_key>.1".
            is_users = line.startswith("    ") and 'File "<' not in head
            yield head, printable(line.strip(), 400) if is_users else ""


def _lines_of_modules(lines: list[str]) -> list[str]:
    """Return one line for each module: a direct call of a "forward" has a frame, and no module."""
    nested = [False, *(".forward(" in line for line in lines)]
    merged: list[str] = []
    for line, is_nested in zip(lines, nested, strict=False):
        merged[len(merged) - is_nested :] = [line]
    return merged
