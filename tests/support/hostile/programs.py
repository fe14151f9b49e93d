"""Hostile `.pt2` files: versions, configs, graphs, expressions and entries that must not be opened.

`archives.py` has the cases of the zip format itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.support.checkpoints.assemble import GOOD, SYSTEM, WEIGHT, Member, ZipBox, archive, mapping
from tests.support.checkpoints.case import Case, table

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


def cases() -> Iterator[Case]:
    yield from _versions()
    yield from _refused_parts()
    yield from _configs()
    yield from _graphs()
    yield from _structures()
    yield from _expressions()
    yield from _unopened()
    yield from _pickled_tensors()


def members(
    document: Any = DOCUMENT, weights: Any = WEIGHTS, constants: Any = CONSTANTS, *more: Member
) -> list[Member]:
    """Return the entries of a program; each JSON text may be given as bytes."""

    def text(value: Any) -> bytes:
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    # As in the other containers, the third entry holds the weight.
    return [
        Member("m/models/model.json", text(document)),
        Member("m/byteorder", b"little"),
        Member("m/data/weights/weight_0", WEIGHT.tobytes()),
        Member("m/data/weights/model_weights_config.json", text(weights)),
        Member("m/data/constants/model_constants_config.json", text(constants)),
        Member("m/archive_format", b"pt2"),
        Member("m/archive_version", b"0"),
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


def _documents(number: int, files: dict[str, Edits], *codes: str) -> Iterator[Case]:
    """Yield a case for each set of edits of the program."""
    made = {label: archive(members(edited(DOCUMENT, edits))) for label, edits in files.items()}
    yield from table(number, "pt2", made, *codes, **({} if codes else {"tensors": GOOD}))


def _weights(number: int, files: dict[str, Edits], *codes: str) -> Iterator[Case]:
    """Yield a case for each set of edits of the entry of the weight."""
    made = {
        label: archive(members(weights={"config": {"w": edited(PAYLOAD, edits)}}))
        for label, edits in files.items()
    }
    yield from table(number, "pt2", made, *codes)


def _replaced(name: str, data: bytes | None = None, **changes: Any) -> bytes:
    """Return the archive with other bytes or other fields of one entry."""
    changes |= {} if data is None else {"data": data}
    return archive([replace(m, **changes) if m.name == f"m/{name}" else m for m in members()])


def _without(name: str) -> bytes:
    """Return the archive without one entry."""
    return archive([m for m in members() if m.name != f"m/{name}"])


def _versions() -> Iterator[Case]:
    """Case 42."""
    files = {
        "format pt3": _replaced("archive_format", b"pt3"),
        "empty format": _replaced("archive_format", b""),
        "long format": _replaced("archive_format", b"pt2" + b" " * 100),
        "archive version 1": _replaced("archive_version", b"1"),
        "no archive version": _without("archive_version"),
    }
    yield from table(42, "pt2", files, "pt2-version")
    majors = {"9": 9, "7": 7, "true": True, "text": "8", "none": None, "a list": [8]}
    yield from _documents(
        42,
        {f"schema {what}": {"schema_version.major": value} for what, value in majors.items()},
        "pt2-version",
    )
    yield from _documents(42, {"no schema": {"schema_version": DELETED}}, "pt2-version")
    second = Member("m/models/other.json", json.dumps(DOCUMENT).encode())
    files = {
        "two programs": archive(members(DOCUMENT, WEIGHTS, CONSTANTS, second)),
        "no program": _without("models/model.json"),
    }
    yield from table(42, "pt2", files, "pt2-unsupported")
    outside = archive(members(DOCUMENT, WEIGHTS, CONSTANTS, Member("n/archive_format", b"pt2")))
    yield Case(13, "pt2 two roots", outside, ("zip-layout",))


def _refused_parts() -> Iterator[Case]:
    """Case 43."""
    argument = "graph_module.graph.nodes.0.inputs.1.arg"
    graph = {"name": "g", "graph": DOCUMENT["graph_module"]["graph"]}
    arguments = {
        "subgraph": {"as_graph": graph},
        "custom object": {"as_custom_obj": {"name": "o", "class_fqn": "os.system"}},
        "operator": {"as_operator": "os.system"},
        "complex number": {"as_complex": {"real": 0.0, "imag": 1.0}},
        "dictionary": {"as_string_to_argument": {"a": {"as_int": 1}}},
        "sparse layout": {"as_layout": 1},
    }
    files = {f"argument, {what}": {argument: value} for what, value in arguments.items()}
    inputs = "graph_module.signature.input_specs.0"
    outputs = "graph_module.signature.output_specs.0"
    files |= {
        "custom object as input": {inputs: {"custom_obj": {"arg": {"name": "p_w"}, "custom_obj_name": "w"}}},
        "token as input": {inputs: {"token": {"arg": {"name": "p_w"}}}},
        "integer as input": {
            "graph_module.signature.input_specs.1": {"user_input": {"arg": {"as_sym_int": {}}}}
        },
        "loss": {outputs: {"loss_output": {"arg": {"name": "mul"}}}},
        "gradient": {outputs: {"gradient_to_parameter": {"arg": {"name": "mul"}, "parameter_name": "w"}}},
        "changed input": {outputs: {"user_input_mutation": {"arg": {"name": "mul"}, "user_input_name": "x"}}},
        "result of an unknown kind": {"graph_module.graph.nodes.0.outputs.0": {"as_int": 1}},
    }
    files["control flow"] = {"graph_module.graph.nodes.0.target": "torch.ops.higher_order.cond"}
    yield from _documents(43, files, "pt2-unsupported")
    weights: dict[str, Edits] = {
        "pickled weight": {"use_pickle": True},
        "weight that is neither pickled nor not": {"use_pickle": None},
        "custom object": {"path_name": "custom_obj_0"},
        "opaque object": {"path_name": "opaque_obj_0"},
    }
    yield from _weights(43, weights, "pt2-unsupported")


def _configs() -> Iterator[Case]:
    """Cases 11, 19 to 26 and 35 in the config of the weights."""
    good = json.dumps(WEIGHTS).encode()
    twice = good[:-2] + b', "w"' + good.partition(b'"w"')[2][:-2] + b"}}"
    yield Case(11, "pt2 weight twice", archive(members(weights=twice)), ("duplicate-key",))
    constants = {"config": {"w": PAYLOAD}}
    yield Case(11, "pt2 weight and constant", archive(_with_constant(constants)), ("duplicate-name",))
    blob = "data/weights/weight_0"
    yield Case(19, "pt2 storage of 15 bytes", _replaced(blob, WEIGHT.tobytes()[:-1]), ("storage-size",))
    yield Case(25, "pt2 storage without bytes", _replaced(blob, b""), ("tensor-bounds",))
    yield Case(25, "pt2 storage missing", _without(blob), ("missing-storage",))
    yield from _weights(
        20,
        {
            "offset 1": {"tensor_meta.storage_offset": {"as_int": 1}},
            "stride 3": {"tensor_meta.strides.0": {"as_int": 3}},
            "size 3": {"tensor_meta.sizes.0": {"as_int": 3}},
            "size 2^61": {"tensor_meta.sizes.0": {"as_int": 1 << 61}},
        },
        "tensor-bounds",
    )
    yield from _weights(
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
    yield from _weights(21, {"expanded": expanded}, "tensor-budget")
    two = {"config": {"w": PAYLOAD, "v": edited(PAYLOAD, {"tensor_meta.dtype": 4})}}
    yield Case(22, "pt2 two dtypes", archive(members(weights=two)), ("storage-dtype",))
    tied = {"config": {"w": PAYLOAD, "v": PAYLOAD}}
    yield Case(23, "pt2 tied", archive(members(weights=tied)), tensors={"w": WEIGHT, "v": WEIGHT})
    keys = ("../x", "weight_0/../../x", "/etc/passwd", "weight_", "weight_٣", "x", "", 0, None)
    yield from _weights(24, {f"storage {key!r}": {"path_name": key} for key in keys}, "storage-key")
    layouts: dict[str, Edits] = {f"layout {n}": {"tensor_meta.layout": n} for n in (0, 1, 2, 6, None)}
    layouts |= {f"dtype {n}": {"tensor_meta.dtype": n} for n in (9, 31)}
    yield from _weights(26, layouts, "unsupported-tensor")
    yield from _weights(
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
    yield Case(39, "pt2 NaN", _replaced(blob, nan.tobytes()), tensors={"w": nan}, warns=True)
    swapped = replace(members()[2], data=WEIGHT.astype(">f4").tobytes())
    big = [members()[0], replace(members()[1], data=b"big"), swapped, *members()[3:]]
    yield Case(28, "pt2 big-endian", archive(big), tensors=GOOD)
    yield Case(28, "pt2 byteorder middle", _replaced("byteorder", b"middle"), ("byteorder",))
    for entry in ("data/weights/model_weights_config.json", "archive_format"):
        yield Case(17, f"pt2 {entry}", _replaced(entry, crc=1), ("crc-mismatch",))


def _with_constant(constants: Any) -> list[Member]:
    tensor = Member("m/data/constants/weight_0", WEIGHT.tobytes())
    return members(DOCUMENT, WEIGHTS, constants, tensor)


def _graphs() -> Iterator[Case]:
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
    yield from _documents(44, files, "pt2-malformed")
    again = {f"{graph}.nodes": [NODE, NODE]}
    same = {f"{graph}.nodes": [NODE, NODE | {"outputs": [{"as_tensor": {"name": "mul_1"}}]}]}
    shadow = {f"{node}.outputs.0": {"as_tensor": {"name": "x"}}}
    yield from _documents(
        44, {"node twice": again, "name twice": same, "result named as an input": shadow}, "duplicate-name"
    )
    other = {f"{signature}.input_specs.0.parameter.parameter_name": "v"}
    yield from _documents(25, {"weight that is not in the file": other}, "missing-storage")
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
    yield Case(11, "pt2 key twice", twice, ("duplicate-key",))
    bomb = archive(members(b'{"a":' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}"))
    yield Case(8, "pt2 brackets", bomb, ("pt2-malformed",))
    many = {"as_tensors": [{"name": "x"}] * 140_000}
    yield Case(
        0, "pt2 140,000 references", archive(members(edited(DOCUMENT, {argument: many}))), tensors=GOOD
    )
    lists = archive(members(b'{"a":[' + b"[]," * 2_500_000 + b"[]]}"))
    yield Case(8, "pt2 lists", lists, ("pt2-malformed",))


def _structures() -> Iterator[Case]:
    """Cases 10, 43 and 44 in tree specs."""
    call = "graph_module.module_call_graph.0.signature"
    named = {"type": "collections.namedtuple", "context": '"os.system"', "children_spec": [LEAF]}
    cyclic = {"type": "my.Class", "context": "null", "children_spec": [LEAF]}
    enum = {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:x", "name": "y"}]'}
    unsupported = {
        "unknown class": cyclic,
        "namedtuple without fields": named,
        "enum as a key": enum | {"children_spec": [LEAF]},
    }
    files: dict[str, Edits] = {what: {f"{call}.out_spec": spec(tree)} for what, tree in unsupported.items()}
    yield from _documents(
        43, {f"structure, {what}": edits for what, edits in files.items()}, "pt2-unsupported"
    )
    deep: Any = LEAF
    for _ in range(200):
        deep = {"type": "builtins.list", "context": "null", "children_spec": [deep]}
    yield from _documents(10, {"structure of 200 levels": {f"{call}.out_spec": spec(deep)}}, "too-deep")
    texts = {
        "brackets": "[" * 100_000,
        "version 2": json.dumps([2, LEAF]),
        "not JSON": "[1, {'type': None}]",
        "no leaf": spec(KEYWORDS),
        "two leaves": spec(ARGUMENTS | {"children_spec": [LEAF, LEAF]}),
        "leaf with children": spec(LEAF | {"children_spec": [LEAF]}),
        "key twice": spec(KEYWORDS | {"context": '["a", "a"]', "children_spec": [LEAF, LEAF]}),
        "more keys than values": spec(KEYWORDS | {"context": '["a", "b"]', "children_spec": [LEAF]}),
    }
    files = {f"structure, {what}": {f"{call}.out_spec": text} for what, text in texts.items()}
    files["arguments that are no pair"] = {f"{call}.in_spec": spec(ARGUMENTS)}
    files["no call of the root"] = {"graph_module.module_call_graph": []}
    yield from _documents(44, files, "pt2-malformed")


def _expressions() -> Iterator[Case]:
    """Case 45: expressions are never evaluated."""
    size = "graph_module.graph.tensor_values.x.sizes.0"
    expressions = (
        "__import__('os').system('touch PWNED')",
        "Symbol('s0', positive=True, integer=True); __import__('os').system('touch PWNED')",
        "Pow(Integer(9), Pow(Integer(9), Pow(Integer(9), Integer(9))))",
        "factorial(10**9)",
        "(" * 100_000,
        "",
    )
    files: dict[str, Edits] = {
        f"expression {number}": {size: {"as_expr": {"expr_str": expression}}}
        for number, expression in enumerate(expressions)
    }
    files["guards"] = {"guards_code": list(expressions)}
    yield from _documents(45, files)


def _unopened() -> Iterator[Case]:
    """Case 46: entries that are never opened."""
    system = b"\x80\x02" + SYSTEM + b"."
    names = ("data/sample_inputs/model.pt", "extra/x", "data/weights/weight_9", ".data/serialization_id")
    for name in names:
        more = Member(f"m/{name}", system)
        yield Case(46, f"pt2 {name}", archive(members(DOCUMENT, WEIGHTS, CONSTANTS, more)), tensors=GOOD)
        wrong = Member(f"m/{name}", system, crc=1)
        file = archive(members(DOCUMENT, WEIGHTS, CONSTANTS, wrong))
        yield Case(46, f"pt2 {name} of another checksum", file, tensors=GOOD)


def _pickled_tensors() -> Iterator[Case]:
    """Cases 1, 13, 25 and 42 for torch 2.6 to 2.8, where the archive holds a file of torch.save."""
    box = ZipBox()
    good = box.file(mapping(w=box.weight()))
    call = ZipBox().file(mapping(w=SYSTEM))
    beside = ZipBox()
    inert = beside.file(mapping(w=beside.weight(), x=SYSTEM))
    version = edited(DOCUMENT, {"schema_version.major": 5})
    for layout in LAYOUTS:
        label = f"pt2 {layout}"
        yield Case(0, f"{label} as it should be", pickled(layout, good), tensors=GOOD)
        yield Case(1, f"{label} call instead of a weight", pickled(layout, call), ("missing-storage",))
        yield Case(1, f"{label} call beside a weight", pickled(layout, inert), tensors=GOOD)
        yield Case(13, f"{label} no archive", pickled(layout, b"\x80\x02}."), ("truncated",))
        yield Case(13, f"{label} archive cut off", pickled(layout, good[:-30]), ("truncated",))
        yield Case(25, f"{label} no tensors", pickled(layout, None), ("zip-layout",))
        yield Case(42, f"{label} schema 5", pickled(layout, good, version), ("pt2-version",))


# Program, weights and constants.
LAYOUTS = {
    "flat": ("serialized_exported_program.json", "serialized_state_dict.pt", "serialized_constants.pt"),
    "folder": ("m/models/model.json", "m/data/weights/model.pt", "m/data/constants/model.pt"),
}


def pickled(layout: str, tensors: bytes | None, document: Any = DOCUMENT) -> bytes:
    """Return an archive with a file of torch.save for the weights, or without it, and no constants."""
    program, weights, constants = LAYOUTS[layout]
    made = [Member(program, json.dumps(document).encode()), Member(constants, ZipBox().file(mapping()))]
    if tensors is not None:
        made.append(Member(weights, tensors))
    if layout == "folder":
        made += [Member("m/archive_format", b"pt2"), Member("m/archive_version", b"0")]
    return archive(made)
