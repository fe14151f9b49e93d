"""The calls of modules that led to a node, from the texts that torch records as its metadata."""

import os
import re
from collections.abc import Iterator
from typing import Any

from jaxlstm.programs.graph import ModuleCall
from jaxlstm_converters.checkpoint.errors import printable

_PT2 = os.path.dirname(os.path.dirname(__file__))
_SLICE = re.compile(r"slice\((?:None|([0-9]{1,9})), (?:None|-?[0-9]{1,9}), (?:None|1)\)\.([0-9]{1,9})")
# torch also records its own functions. A frame of "forward" belongs to a module. A frame of a method, which
# an export by jaxlstm recorded, names its path, class, number and name.
_FRAME = re.compile(r"(?:^| )in (forward|method ([^,\s]*),([^,\s]*),([0-9]{1,9}),(\w{1,200}))")


def read_calls(metadata: Any) -> tuple[ModuleCall, ...]:
    """Return the calls of the stack "key,path,class;key,path,class;...", outermost first.

    Nodes that torch inserted have a stack of placeholders, and no calls.
    """
    entries = [_parts(entry) for entry in _text(metadata, "nn_module_stack").split(";")]
    if any(len(entry) < 3 or entry[0] == entry[1] for entry in entries):
        return ()
    calls, left = list[ModuleCall](), iter(entries)
    for head, line in _merged([*_frames(_text(metadata, "stack_trace"))]):
        if head[1] == "forward":
            _add(calls, next(left, []), line)
        else:
            path, name, number, method = (printable(part, 1_000) for part in head.groups()[1:])
            calls.append(ModuleCall(f"{path}#{number}", path, name, line, method))
    for entry in left:
        _add(calls, entry, "")
    return tuple(calls)


def _add(calls: list[ModuleCall], entry: list[str], line: str) -> None:
    """Add the call of an entry, [] for none, with its line."""
    if not entry:
        return
    key, path = printable(entry[0].removeprefix("L__self__"), 1_000), printable(entry[1], 1_000)
    around = next((call for call in reversed(calls) if not call.method), None)
    if around is not None and around.path == path:  # A method calls its own module.
        if calls[-1] is around:
            calls[-1] = around._replace(line=line)
    elif "slice(" not in entry[1]:  # from the end of a list, whose length is not known
        calls.append(ModuleCall(key, path, printable(entry[-1], 1_000), line))


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
    ours = f'"{_PT2}{os.sep}'
    frames = [(head[0], line) for head, line in _frames(stack_trace) if ours not in head.string]
    return "\n".join(f"{head.strip()}\n    {line}" for head, line in frames)


def _text(metadata: Any, name: str) -> str:
    text = metadata.get(name, "") if isinstance(metadata, dict) else ""
    return text if type(text) is str else ""


def _frames(stack_trace: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield the heading of each frame of a "forward" or method, and its line of the user's code, or ""."""
    texts = stack_trace.split("\n")
    for text, line in zip(texts, [*texts[1:], ""], strict=True):
        head = None if text.startswith("    ") else _FRAME.search(text)
        if head is not None and head.end() == len(text):
            # torch's generated code has names such as "<eval_with_key>.1".
            is_users = line.startswith("    ") and 'File "<' not in text
            yield head, printable(line.strip(), 400) if is_users else ""


def _merged(frames: list[tuple[re.Match[str], str]]) -> list[tuple[re.Match[str], str]]:
    """Return one frame for each module: a direct call of a "forward" has a frame, and no module."""
    nested = [False, *(".forward(" in line for _, line in frames)]
    merged: list[tuple[re.Match[str], str]] = []
    for frame, is_nested in zip(frames, nested, strict=False):
        is_merged = is_nested and frame[0][1] == "forward"
        merged[len(merged) - is_merged :] = [frame]
    return merged
