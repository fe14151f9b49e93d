"""A small valid `.pt2` file, edits of its JSON texts and entries, and hostile configs of its weights."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from testing.checkpoints.assemble import GOOD, WEIGHT, ZipBox, ZipMember, archive, mapping
from testing.checkpoints.case import FileCase, table
from testing.hostile.tensors import GEOMETRIES

DELETED = object()
Edits = dict[str, Any]
META = {
    "dtype": 7,
    "sizes": [{"as_int": 2}, {"as_int": 2}],
    "requires_grad": True,
    "device": {"type": "cpu", "index": None},
    "strides": [{"as_int": 2}, {"as_int": 1}],
    "storage_offset": {"as_int": 0},
    "layout": 7,
}
PAYLOAD = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": META}
LEAF = {"type": None, "context": None, "children_spec": []}
ARGUMENTS = {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF]}
KEYWORDS = {"type": "builtins.dict", "context": "[]", "children_spec": []}
NODE = {
    "target": "torch.ops.aten.mul.Tensor",
    "inputs": [
        {"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1},
        {"name": "other", "arg": {"as_tensor": {"name": "p_w"}}, "kind": 1},
    ],
    "outputs": [{"as_tensor": {"name": "mul"}}],
    "metadata": {"nn_module_stack": "L__self__,,M"},
    "name": "mul",
}


def spec(*trees: Any) -> str:
    """Return the text of a tree spec of (args, kwargs), or of one tree."""
    tree = (
        trees[0] if len(trees) == 1 else {"type": "builtins.tuple", "context": "null", "children_spec": trees}
    )
    return json.dumps([1, tree])


DOCUMENT: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "inputs": [{"as_tensor": {"name": "p_w"}}, {"as_tensor": {"name": "x"}}],
            "outputs": [{"as_tensor": {"name": "mul"}}],
            "nodes": [NODE],
            "tensor_values": {"p_w": META, "x": META, "mul": META},
            "sym_int_values": {},
        },
        "signature": {
            "input_specs": [
                {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
            ],
            "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "mul"}}}}],
        },
        "module_call_graph": [
            {"fqn": "", "signature": {"in_spec": spec(ARGUMENTS, KEYWORDS), "out_spec": spec(LEAF)}}
        ],
    },
    "range_constraints": {},
    "schema_version": {"major": 8, "minor": 20},
    "guards_code": ["__import__('os').system('touch PWNED')"],
}
WEIGHTS = {"config": {"w": PAYLOAD}}
CONSTANTS: dict[str, Any] = {"config": {}}


def members(
    document: Any = DOCUMENT, weights: Any = WEIGHTS, constants: Any = CONSTANTS, *more: ZipMember
) -> list[ZipMember]:
    """Return the entries of a program; each JSON text may be given as bytes."""

    def text(value: Any) -> bytes:
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    # As in the other containers, the third entry holds the weight.
    return [
        ZipMember("m/models/model.json", text(document)),
        ZipMember("m/byteorder", b"little"),
        ZipMember("m/data/weights/weight_0", WEIGHT.tobytes()),
        ZipMember("m/data/weights/model_weights_config.json", text(weights)),
        ZipMember("m/data/constants/model_constants_config.json", text(constants)),
        ZipMember("m/archive_format", b"pt2"),
        ZipMember("m/archive_version", b"0"),
        *more,
    ]


def edited(tree: Any, edits: Edits) -> Any:
    """Return a copy with the values at some paths, such as "config.w.use_pickle", replaced or deleted."""
    made = json.loads(json.dumps(tree))
    for path, value in edits.items():
        holder = made
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for parent in parents:
            holder = holder[parent]
        if value is DELETED:
            del holder[last]
        else:
            holder[last] = value
    return made


def documents(number: int, files: dict[str, Edits], *codes: str) -> Iterator[FileCase]:
    """Yield a case for each set of edits of the program."""
    made = {label: archive(members(edited(DOCUMENT, edits))) for label, edits in files.items()}
    yield from table(number, "pt2", made, *codes, **({} if codes else {"tensors": GOOD}))


def weights_of(number: int, files: dict[str, Edits], *codes: str) -> Iterator[FileCase]:
    """Yield a case for each set of edits of the entry of the weight."""
    made = {
        label: archive(members(weights={"config": {"w": edited(PAYLOAD, edits)}}))
        for label, edits in files.items()
    }
    yield from table(number, "pt2", made, *codes)


def replaced(name: str, data: bytes | None = None, **changes: Any) -> bytes:
    """Return the archive with other bytes or other fields of one entry."""
    changes |= {} if data is None else {"data": data}
    return archive([replace(m, **changes) if m.name == f"m/{name}" else m for m in members()])


def without(name: str) -> bytes:
    """Return the archive without one entry."""
    return archive([m for m in members() if m.name != f"m/{name}"])


LAYOUTS = {
    "flat": ("serialized_exported_program.json", "serialized_state_dict.pt", "serialized_constants.pt"),
    "folder": ("m/models/model.json", "m/data/weights/model.pt", "m/data/constants/model.pt"),
}


def pickled(layout: str, tensors: bytes | None, document: Any = DOCUMENT) -> bytes:
    """Return an archive whose weights are in a file of torch.save, or missing, and without constants."""
    program, weights, constants = LAYOUTS[layout]
    made = [ZipMember(program, json.dumps(document).encode()), ZipMember(constants, ZipBox().file(mapping()))]
    if tensors is not None:
        made.append(ZipMember(weights, tensors))
    if layout == "folder":
        made += [ZipMember("m/archive_format", b"pt2"), ZipMember("m/archive_version", b"0")]
    return archive(made)


def config_cases() -> Iterator[FileCase]:
    """Cases 11, 19 to 26 and 35 in the config of the weights."""
    good = json.dumps(WEIGHTS).encode()
    twice = good[:-2] + b', "w"' + good.partition(b'"w"')[2][:-2] + b"}}"
    yield FileCase(11, "pt2 weight twice", archive(members(weights=twice)), ("duplicate-key",))
    tensor = ZipMember("m/data/constants/weight_0", WEIGHT.tobytes())
    both = members(DOCUMENT, WEIGHTS, {"config": {"w": PAYLOAD}}, tensor)
    yield FileCase(11, "pt2 weight and constant", archive(both), ("duplicate-name",))
    blob = "data/weights/weight_0"
    yield FileCase(19, "pt2 storage of 15 bytes", replaced(blob, WEIGHT.tobytes()[:-1]), ("storage-size",))
    yield FileCase(25, "pt2 storage without bytes", replaced(blob, b""), ("tensor-bounds",))
    yield FileCase(25, "pt2 storage missing", without(blob), ("missing-storage",))
    geometries: dict[str, Edits] = {
        label: {
            "tensor_meta.storage_offset": {"as_int": offset},
            "tensor_meta.sizes": [{"as_int": n} for n in size],
            "tensor_meta.strides": [{"as_int": n} for n in stride],
        }
        for label, (offset, size, stride) in GEOMETRIES.items()
    }
    yield from weights_of(20, geometries, "tensor-shape", "tensor-bounds")
    numbers: tuple[Any, ...] = (1 << 64, True, "2")
    types: dict[str, Edits] = {f"size {n!r}": {"tensor_meta.sizes.0": {"as_int": n}} for n in numbers}
    types["sizes 0 and 2^60"] = {"tensor_meta.sizes": [{"as_int": 0}, {"as_int": 1 << 60}]}
    yield from weights_of(20, types, "tensor-shape")
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
