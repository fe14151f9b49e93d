"""Mutations of JSON, of safetensors, and of the headers of NumPy arrays."""

from __future__ import annotations

import json
import re
import struct
from itertools import accumulate
from random import Random
from typing import Any

from tools.fuzz.plain_bytes import Mutate, edit_bytes, edit_sequence, fixed, number, text

WORDS = ("F32", "BF16", "F8_E8M0", "F4", "I64", "BOOL", "C64", "U16", "__metadata__", "weight_map")
# Kinds of arguments, specs and expressions in the schema of exported programs.
PROGRAM_WORDS = (
    *(
        "as_none",
        "as_int",
        "as_ints",
        "as_float",
        "as_bool",
        "as_string",
        "as_tensor",
        "as_tensors",
        "as_name",
    ),
    *("as_sym_int", "as_sym_ints", "as_expr", "as_graph", "as_custom_obj", "as_scalar_type", "as_complex"),
    *("user_input", "constant_input", "parameter", "buffer", "custom_obj", "token", "buffer_mutation"),
    *("Symbol('s77', positive=True, integer=True)", "Symbol('s1')", "Pow(Integer(9), Integer(10**9))"),
    *("builtins.tuple", "builtins.dict", "collections.namedtuple", "__main__.T", "[1, null]", "NaN"),
    *("weight_0", "tensor_0", "custom_obj_0", "x", "getitem", "torch.ops.aten.add.Tensor", "_operator.add"),
)
DTYPES = ("<f4", ">f8", "|b1", "<c16", "|O", "<U3", "<M8[s]", "|V4", "f4", "=i2", "", "<f4x", ">i1")


class _Object(list[list[Any]]):
    """A JSON object as a list of [key, value], so that keys can repeat."""


def _parsed(raw: bytes) -> Any:
    # The depth at which Python's own recursion ends depends on its release and on the caller.
    steps = ((byte in b"[{") - (byte in b"]}") for byte in raw)
    if max(accumulate(steps), default=0) > 200:
        raise RecursionError("more than 200 nested brackets")
    return json.loads(raw, object_pairs_hook=lambda pairs: _Object(map(list, pairs)))


def _written(tree: Any) -> str:
    if isinstance(tree, _Object):
        return "{" + ",".join(f"{json.dumps(key)}:{_written(item)}" for key, item in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(_written, tree)) + "]"
    return tree if isinstance(tree, _Raw) else json.dumps(tree)


class _Raw(str):
    """JSON text that is written verbatim."""


def mutate_json(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit the parsed tree, or sometimes the text."""
    if rng.random() < 0.15:
        return edit_bytes(rng, raw)
    tree = _parsed(raw)
    for _ in range(edits):
        _edit_tree(rng, tree)
    return _written(tree).encode("utf-8", "surrogatepass")


def _word(rng: Random) -> str:
    return rng.choice(rng.choice((WORDS, PROGRAM_WORDS)))


def _edit_tree(rng: Random, tree: Any) -> None:
    """Pick a random place in the tree and edit it."""
    holder = tree
    while True:
        if not holder:
            return
        at = rng.randrange(len(holder))
        pair = holder[at] if isinstance(holder, _Object) else holder
        slot = 1 if isinstance(holder, _Object) else at
        if isinstance(pair[slot], list) and pair[slot] and rng.random() < 0.8:
            holder = pair[slot]
            continue
        break
    what = rng.randrange(6)
    if what == 0:
        edit_sequence(rng, holder)
    elif what == 1 and pair is not holder:
        pair[0] = rng.choice((text(rng, pair[0]), _word(rng), holder[rng.randrange(len(holder))][0]))
    else:
        pair[slot] = _changed(rng, pair[slot])


def _changed(rng: Random, old: Any) -> Any:
    if type(old) is int and rng.random() < 0.8:
        return number(rng, old)
    if isinstance(old, str) and old.startswith("[") and rng.random() < 0.7:
        # The structure of arguments and results is JSON in a string.
        tree = _parsed(old.encode())
        _edit_tree(rng, tree)
        return _written(tree)
    if isinstance(old, str) and rng.random() < 0.7:
        return rng.choice((text(rng, old), _word(rng)))
    depth = rng.choice((1, 2, 50, 900, 940, 960, 980, 2000))
    return rng.choice(
        (
            *(None, True, 0, -1, "", [], _Object(), [0], [1, [2]], 1 << 64),
            *map(_Raw, ("1.0", "1e999", "NaN", "-0", "9" * 5000, '"\\ud800"')),
            *(_Raw("[" * depth + "]" * depth), _Raw('{"a":' * depth + "1" + "}" * depth)),
        )
    )


def mutate_safetensors(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit mostly the header; its length field is correct unless it is the edited part."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = raw[8 : 8 + length], raw[8 + length :]
    what = rng.randrange(12)
    if what == 0:
        return fixed(number(rng, length), 8) + header + data
    if what == 1:
        return fixed(length, 8) + header + edit_bytes(rng, data)
    header = mutate_json(rng, header, edits, mutate)
    return fixed(len(header), 8) + header + data


def mutate_npy(rng: Random, raw: bytes, edits: int, mutate: Mutate) -> bytes:
    """Edit numbers and strings of the header; its length field is correct."""
    wide = raw[6] > 1
    (length,) = struct.unpack_from("<I" if wide else "<H", raw, 8)
    start = 12 if wide else 10
    header, data = raw[start : start + length].decode("latin1"), raw[start + length :]
    for _ in range(edits):
        tokens = re.split(r"(\d+|'[^']*'|\w+)", header)
        at = rng.randrange(len(tokens))
        if tokens[at].isdigit():
            tokens[at] = str(number(rng, int(tokens[at])))
        elif rng.random() < 0.5:
            tokens[at] = rng.choice([*map(repr, DTYPES), "True", "False", "2, 3", "(", ",", " "])
        else:
            edit_sequence(rng, tokens)
        header = "".join(tokens)
    made = header.encode("latin1", "replace")[:60_000]
    version = rng.choice((1, 1, 1, 1, 2, 3, 9))
    size = fixed(len(made), 4 if version > 1 else 2)
    return b"\x93NUMPY" + bytes([version, 0]) + size + made + data
