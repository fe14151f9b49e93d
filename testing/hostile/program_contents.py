"""Hostile `.pt2` files: configs of the weights, and graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from testing.checkpoints.assemble import GOOD, WEIGHT, ZipMember, archive
from testing.checkpoints.case import FileCase, table
from testing.hostile.program_files import (
    DELETED,
    DOCUMENT,
    NODE,
    PAYLOAD,
    WEIGHTS,
    Edits,
    documents,
    edited,
    members,
    replaced,
    weights_of,
    without,
)


def cases() -> Iterator[FileCase]:
    yield from _configs()
    yield from _graphs()


def _configs() -> Iterator[FileCase]:
    """Cases 11, 19 to 26 and 35 in the config of the weights."""
    good = json.dumps(WEIGHTS).encode()
    twice = good[:-2] + b', "w"' + good.partition(b'"w"')[2][:-2] + b"}}"
    yield FileCase(11, "pt2 weight twice", archive(members(weights=twice)), ("duplicate-key",))
    constants = {"config": {"w": PAYLOAD}}
    yield FileCase(11, "pt2 weight and constant", archive(_with_constant(constants)), ("duplicate-name",))
    blob = "data/weights/weight_0"
    yield FileCase(19, "pt2 storage of 15 bytes", replaced(blob, WEIGHT.tobytes()[:-1]), ("storage-size",))
    yield FileCase(25, "pt2 storage without bytes", replaced(blob, b""), ("tensor-bounds",))
    yield FileCase(25, "pt2 storage missing", without(blob), ("missing-storage",))
    yield from weights_of(
        20,
        {
            "offset 1": {"tensor_meta.storage_offset": {"as_int": 1}},
            "stride 3": {"tensor_meta.strides.0": {"as_int": 3}},
            "size 3": {"tensor_meta.sizes.0": {"as_int": 3}},
            "size 2^61": {"tensor_meta.sizes.0": {"as_int": 1 << 61}},
        },
        "tensor-bounds",
    )
    yield from weights_of(
        20,
        {
            "size -1": {"tensor_meta.sizes.0": {"as_int": -1}},
            "offset -1": {"tensor_meta.storage_offset": {"as_int": -1}},
            "stride -1": {"tensor_meta.strides.0": {"as_int": -1}},
            "size 2^64": {"tensor_meta.sizes.0": {"as_int": 1 << 64}},
            "size true": {"tensor_meta.sizes.0": {"as_int": True}},
            "size as text": {"tensor_meta.sizes.0": {"as_int": "2"}},
            "three strides": {"tensor_meta.strides": [{"as_int": 1}] * 3},
            "65 dimensions": {"tensor_meta.sizes": [{"as_int": 1}] * 65, "tensor_meta.strides": []},
            "sizes 0 and 2^60": {"tensor_meta.sizes": [{"as_int": 0}, {"as_int": 1 << 60}]},
        },
        "tensor-shape",
    )
    expanded: Edits = {
        "tensor_meta.sizes": [{"as_int": 1 << 31}, {"as_int": 1 << 20}],
        "tensor_meta.strides": [{"as_int": 0}] * 2,
    }
    yield from weights_of(21, {"expanded": expanded}, "tensor-budget")
    two = {"config": {"w": PAYLOAD, "v": edited(PAYLOAD, {"tensor_meta.dtype": 4})}}
    yield FileCase(22, "pt2 two dtypes", archive(members(weights=two)), ("storage-dtype",))
    tied = {"config": {"w": PAYLOAD, "v": PAYLOAD}}
    yield FileCase(23, "pt2 tied", archive(members(weights=tied)), tensors={"w": WEIGHT, "v": WEIGHT})
    keys = ("../x", "weight_0/../../x", "/etc/passwd", "weight_", "weight_٣", "x", "", 0, None)
    yield from weights_of(24, {f"storage {key!r}": {"path_name": key} for key in keys}, "storage-key")
    layouts: dict[str, Edits] = {f"layout {n}": {"tensor_meta.layout": n} for n in (0, 1, 2, 6, None)}
    layouts |= {f"dtype {n}": {"tensor_meta.dtype": n} for n in (9, 31)}
    yield from weights_of(26, layouts, "unsupported-tensor")
    yield from weights_of(
        44,
        {
            "no meta": {"tensor_meta": None},
            "no path": {"path_name": DELETED},
            "dtype 99": {"tensor_meta.dtype": 99},
            "dtype as text": {"tensor_meta.dtype": "7"},
            "sizes as a number": {"tensor_meta.sizes": 4},
            "size as an expression": {"tensor_meta.sizes.0": {"as_expr": {"expr_str": "2"}}},
        },
        "pt2-malformed",
    )
    files: dict[str, Any] = {"config as a list": {"config": []}, "no config": {}, "config of text": b'"w"'}
    made = {label: archive(members(weights=value)) for label, value in files.items()}
    yield from table(44, "pt2", made, "pt2-malformed")
    nan = np.full((2, 2), np.nan, "<f4")
    yield FileCase(39, "pt2 NaN", replaced(blob, nan.tobytes()), tensors={"w": nan}, warns=True)
    swapped = replace(members()[2], data=WEIGHT.astype(">f4").tobytes())
    big = [members()[0], replace(members()[1], data=b"big"), swapped, *members()[3:]]
    yield FileCase(28, "pt2 big-endian", archive(big), tensors=GOOD)
    yield FileCase(28, "pt2 byteorder middle", replaced("byteorder", b"middle"), ("byteorder",))
    for entry in ("data/weights/model_weights_config.json", "archive_format"):
        yield FileCase(17, f"pt2 {entry}", replaced(entry, crc=1), ("crc-mismatch",))


def _with_constant(constants: Any) -> list[ZipMember]:
    tensor = ZipMember("m/data/constants/weight_0", WEIGHT.tobytes())
    return members(DOCUMENT, WEIGHTS, constants, tensor)


def _graphs() -> Iterator[FileCase]:
    """Case 44."""
    graph, signature = "graph_module.graph", "graph_module.signature"
    node = f"{graph}.nodes.0"
    argument = f"{node}.inputs.1.arg"
    arguments = {
        "undefined": {"as_tensor": {"name": "y"}},
        "its own result": {"as_tensor": {"name": "mul"}},
        "name as a number": {"as_tensor": {"name": 1}},
        "unknown kind": {"as_nothing": 1},
        "two kinds": {"as_int": 1, "as_float": 1.0},
        "no kind": {},
        "a list": [],
        "float as int": {"as_int": 1.0},
        "int of 100 digits": {"as_int": 10**100},
        "bool as int": {"as_int": True},
        "int as bool": {"as_bool": 1},
        "ints as a number": {"as_ints": 1},
        "infinity as another text": {"as_float": "inf"},
        "unknown dtype": {"as_scalar_type": 98},
    }
    files: dict[str, Edits] = {f"argument, {what}": {argument: value} for what, value in arguments.items()}
    files |= {
        "node without target": {f"{node}.target": DELETED},
        "target with a call": {f"{node}.target": "os.system('touch PWNED')"},
        "target of one word": {f"{node}.target": "exec"},
        "argument twice": {f"{node}.inputs.1.name": "self"},
        "result name with a space": {f"{node}.outputs.0": {"as_tensor": {"name": "a b"}}},
        "result name of 2,000 letters": {f"{node}.outputs.0": {"as_tensor": {"name": "a" * 2_000}}},
        "nodes as an object": {f"{graph}.nodes": {}},
        "output undefined": {f"{signature}.output_specs.0.user_output.arg.as_tensor.name": "y"},
        "no types": {f"{graph}.tensor_values": {}},
        "type of size -1": {f"{graph}.tensor_values.x.sizes.0": {"as_int": -1}},
        "weight of another shape": {f"{graph}.tensor_values.p_w.sizes.0": {"as_int": 3}},
        "weight of another dtype": {f"{graph}.tensor_values.p_w.dtype": 8},
        "placeholder missing": {f"{graph}.inputs": [{"as_tensor": {"name": "x"}}]},
        "placeholders swapped": {f"{graph}.inputs": DOCUMENT["graph_module"]["graph"]["inputs"][::-1]},
        "no graph": {"graph_module": {}},
        "range as text": {"range_constraints": "s0"},
    }
    yield from documents(44, files, "pt2-malformed")
    again = {f"{graph}.nodes": [NODE, NODE]}
    same = {f"{graph}.nodes": [NODE, NODE | {"outputs": [{"as_tensor": {"name": "mul_1"}}]}]}
    shadow = {f"{node}.outputs.0": {"as_tensor": {"name": "x"}}}
    yield from documents(
        44, {"node twice": again, "name twice": same, "result named as an input": shadow}, "duplicate-name"
    )
    other = {f"{signature}.input_specs.0.parameter.parameter_name": "v"}
    yield from documents(25, {"weight that is not in the file": other}, "missing-storage")
    texts = {
        "not JSON": b"{'a': 1}",
        "not UTF-8": b'{"\xff": 1}',
        "a list": b"[]",
        "NaN": b'{"a": NaN}',
        "a number of 10^400": b'{"a": 1e400}',
        "10,000 digits": b'{"a":' + b"9" * 10_000 + b"}",
        "empty": b"",
    }
    made = {label: archive(members(text)) for label, text in texts.items()}
    yield from table(44, "pt2 program:", made, "pt2-malformed")
    good = json.dumps(DOCUMENT).encode()
    twice = archive(members(good[:-1] + b', "guards_code": []}'))
    yield FileCase(11, "pt2 key twice", twice, ("duplicate-key",))
    bomb = archive(members(b'{"a":' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}"))
    yield FileCase(8, "pt2 brackets", bomb, ("pt2-malformed",))
    many = {"as_tensors": [{"name": "x"}] * 140_000}
    yield FileCase(
        0, "pt2 140,000 references", archive(members(edited(DOCUMENT, {argument: many}))), tensors=GOOD
    )
    lists = archive(members(b'{"a":[' + b"[]," * 2_500_000 + b"[]]}"))
    yield FileCase(8, "pt2 lists", lists, ("pt2-malformed",))
