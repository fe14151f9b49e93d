"""Hostile `.pt2` files: versions, refused parts, graphs, structures, expressions and entries never opened.

`archives.py` has the cases of the zip format itself.
"""

import json
from collections.abc import Iterator
from typing import Any

from testing.checkpoints.assemble import GOOD, SYSTEM, ZipBox, ZipMember, archive, mapping
from testing.checkpoints.case import FileCase, table
from testing.hostile.program_files import (
    ARGUMENTS,
    CONSTANTS,
    DELETED,
    DOCUMENT,
    KEYWORDS,
    LAYOUTS,
    LEAF,
    NODE,
    WEIGHTS,
    Edits,
    config_cases,
    documents,
    edited,
    members,
    pickled,
    replaced,
    spec,
    weights_of,
    without,
)


def cases() -> Iterator[FileCase]:
    yield from _versions()
    yield from _refused_parts()
    yield from config_cases()
    yield from _graphs()
    yield from _structures()
    yield from _expressions()
    yield from _unopened()
    yield from _pickled_tensors()


def _versions() -> Iterator[FileCase]:
    """Case 42."""
    files = {
        "format pt3": replaced("archive_format", b"pt3"),
        "long format": replaced("archive_format", b"pt2" + b" " * 100),
        "archive version 1": replaced("archive_version", b"1"),
        "no archive version": without("archive_version"),
    }
    yield from table(42, "pt2", files, "pt2-version")
    majors = {"9": 9, "7": 7, "true": True, "text": "8", "none": None, "a list": [8]}
    yield from documents(
        42,
        {f"schema {what}": {"schema_version.major": value} for what, value in majors.items()},
        "pt2-version",
    )
    yield from documents(42, {"no schema": {"schema_version": DELETED}}, "pt2-version")
    second = ZipMember("m/models/other.json", json.dumps(DOCUMENT).encode())
    files = {
        "two programs": archive(members(DOCUMENT, WEIGHTS, CONSTANTS, second)),
        "no program": without("models/model.json"),
    }
    yield from table(42, "pt2", files, "pt2-unsupported")
    outside = archive(members(DOCUMENT, WEIGHTS, CONSTANTS, ZipMember("n/archive_format", b"pt2")))
    yield FileCase(13, "pt2 two roots", outside, ("zip-layout",))


def _refused_parts() -> Iterator[FileCase]:
    """Case 43."""
    argument = "graph_module.graph.nodes.0.inputs.1.arg"
    graph = {"name": "g", "graph": DOCUMENT["graph_module"]["graph"]}
    arguments = {
        "subgraph": {"as_graph": graph},
        "custom object": {"as_custom_obj": {"name": "o", "class_fqn": "os.system"}},
        "dictionary": {"as_string_to_argument": {"a": {"as_int": 1}}},
        "sparse layout": {"as_layout": 1},
    }
    files = {f"argument, {what}": {argument: value} for what, value in arguments.items()}
    inputs = "graph_module.signature.input_specs.0"
    outputs = "graph_module.signature.output_specs.0"
    files |= {
        "custom object as input": {inputs: {"custom_obj": {"arg": {"name": "p_w"}, "custom_obj_name": "w"}}},
        "integer as input": {
            "graph_module.signature.input_specs.1": {"user_input": {"arg": {"as_sym_int": {}}}}
        },
        "loss": {outputs: {"loss_output": {"arg": {"name": "mul"}}}},
        "changed input": {outputs: {"user_input_mutation": {"arg": {"name": "mul"}, "user_input_name": "x"}}},
        "result of an unknown kind": {"graph_module.graph.nodes.0.outputs.0": {"as_int": 1}},
    }
    yield from documents(43, files, "pt2-unsupported")
    region = {"graph_module.graph.nodes.0.target": "torch.ops.higher_order.wrap_with_autocast"}
    yield from documents(44, {"region without a graph": region}, "pt2-malformed")
    yield from documents(44, {"deep graphs": {"graph_module.graph.nodes.0": _nested(30)}}, "too-deep")
    weights: dict[str, Edits] = {
        "pickled weight": {"use_pickle": True},
        "weight that is neither pickled nor not": {"use_pickle": None},
        "custom object": {"path_name": "custom_obj_0"},
    }
    yield from weights_of(43, weights, "pt2-unsupported")


def _nested(depth: int) -> dict[str, Any]:
    """Return a node whose graph has such a node, and so on."""
    node: dict[str, Any] = {"target": "torch.ops.higher_order.map_impl", "inputs": [], "outputs": []}
    for _ in range(depth):
        graph = {"inputs": [], "outputs": [], "nodes": [node], "tensor_values": {}}
        inner = {"name": "", "arg": {"as_graph": {"name": "g", "graph": graph}}}
        node = {**node, "inputs": [inner]}
    return node


def _graphs() -> Iterator[FileCase]:
    """Case 44."""
    graph, signature = "graph_module.graph", "graph_module.signature"
    node = f"{graph}.nodes.0"
    argument = f"{node}.inputs.1.arg"
    arguments = {
        "undefined": {"as_tensor": {"name": "y"}},
        "its own result": {"as_tensor": {"name": "mul"}},
        "unknown kind": {"as_nothing": 1},
        "two kinds": {"as_int": 1, "as_float": 1.0},
        "float as int": {"as_int": 1.0},
        "int of 100 digits": {"as_int": 10**100},
        "bool as int": {"as_int": True},
        "infinity as another text": {"as_float": "inf"},
        "unknown dtype": {"as_scalar_type": 98},
        "optional tensor of another kind": {"as_optional_tensors": [{"as_int": 1}]},
        "symbolic integer of another kind": {"as_sym_int": {"as_float": 1.0}},
    }
    files: dict[str, Edits] = {f"argument, {what}": {argument: value} for what, value in arguments.items()}
    files |= {
        "node without target": {f"{node}.target": DELETED},
        "target with a call": {f"{node}.target": "os.system('touch PWNED')"},
        "argument twice": {f"{node}.inputs.1.name": "self"},
        "result name with a space": {f"{node}.outputs.0": {"as_tensor": {"name": "a b"}}},
        "nodes as an object": {f"{graph}.nodes": {}},
        "output undefined": {f"{signature}.output_specs.0.user_output.arg.as_tensor.name": "y"},
        "no types": {f"{graph}.tensor_values": {}},
        "type of size 1.0": {f"{graph}.tensor_values.x.sizes.0": {"as_float": 1.0}},
        "type of size -1": {f"{graph}.tensor_values.x.sizes.0": {"as_int": -1}},
        "weight of another shape": {f"{graph}.tensor_values.p_w.sizes.0": {"as_int": 3}},
        "weight of another dtype": {f"{graph}.tensor_values.p_w.dtype": 8},
        "placeholder missing": {f"{graph}.inputs": [{"as_tensor": {"name": "x"}}]},
        "placeholders swapped": {f"{graph}.inputs": DOCUMENT["graph_module"]["graph"]["inputs"][::-1]},
        "no graph": {"graph_module": {}},
        "range as text": {"range_constraints": "s0"},
        "buffer that is no input": {
            f"{signature}.output_specs.0": {"buffer_mutation": {"arg": {"name": "mul"}, "buffer_name": "b"}}
        },
        "list as a constant": {
            f"{signature}.input_specs.1": {"constant_input": {"name": "x", "value": {"as_ints": [1]}}}
        },
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
    texts = {"not JSON": b"{'a': 1}", "a list": b"[]", "a number of 10^400": b'{"a": 1e400}'}
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
    long = archive(members(DOCUMENT | {"torch_version": "x" * 8_000_000}))
    yield FileCase(0, "pt2 text of 8 MB", long, tensors=GOOD)
    lists = archive(members(b'{"a":[' + b"[]," * 6_000_000 + b"[]]}"))
    yield FileCase(8, "pt2 lists", lists, ("pt2-malformed",))


def _structures() -> Iterator[FileCase]:
    """Cases 10, 43 and 44 in tree specs."""
    call = "graph_module.module_call_graph.0.signature"
    named = {"type": "collections.namedtuple", "context": "os.system", "children_spec": [LEAF]}
    cyclic = {"type": "my.Class", "context": "null", "children_spec": [LEAF]}
    enum = {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:x", "name": "y"}]'}
    unsupported = {
        "unknown class": cyclic,
        "namedtuple without fields": named,
        "enum as a key": enum | {"children_spec": [LEAF]},
    }
    files: dict[str, Edits] = {what: {f"{call}.out_spec": spec(tree)} for what, tree in unsupported.items()}
    yield from documents(
        43, {f"structure, {what}": edits for what, edits in files.items()}, "pt2-unsupported"
    )
    deep: Any = LEAF
    for _ in range(200):
        deep = {"type": "builtins.list", "context": "null", "children_spec": [deep]}
    yield from documents(10, {"structure of 200 levels": {f"{call}.out_spec": spec(deep)}}, "too-deep")
    texts = {
        "brackets": "[" * 100_000,
        "version 2": json.dumps([2, LEAF]),
        "not JSON": "[1, {'type': None}]",
        "no leaf": spec(KEYWORDS),
        "leaf with children": spec(LEAF | {"children_spec": [LEAF]}),
        "key twice": spec(KEYWORDS | {"context": '["a", "a"]', "children_spec": [LEAF, LEAF]}),
        "more keys than values": spec(KEYWORDS | {"context": '["a", "b"]', "children_spec": [LEAF]}),
    }
    files = {f"structure, {what}": {f"{call}.out_spec": text} for what, text in texts.items()}
    files["arguments that are not a pair"] = {f"{call}.in_spec": spec(ARGUMENTS)}
    files["no call of the root"] = {"graph_module.module_call_graph": []}
    yield from documents(44, files, "pt2-malformed")


def _expressions() -> Iterator[FileCase]:
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
    yield from documents(45, files)


def _unopened() -> Iterator[FileCase]:
    """Case 46: entries that are never opened."""
    system = b"\x80\x02" + SYSTEM + b"."
    names = ("data/sample_inputs/model.pt", "extra/x", "data/weights/weight_9", ".data/serialization_id")
    for name in names:
        more = ZipMember(f"m/{name}", system)
        yield FileCase(46, f"pt2 {name}", archive(members(DOCUMENT, WEIGHTS, CONSTANTS, more)), tensors=GOOD)
        wrong = ZipMember(f"m/{name}", system, crc=1)
        file = archive(members(DOCUMENT, WEIGHTS, CONSTANTS, wrong))
        yield FileCase(46, f"pt2 {name} of another checksum", file, tensors=GOOD)


def _pickled_tensors() -> Iterator[FileCase]:
    """Cases 1, 13, 25 and 42 for torch 2.6 to 2.8, where the archive holds a file of torch.save."""
    box = ZipBox()
    good = box.file(mapping(w=box.weight()))
    call = ZipBox().file(mapping(w=SYSTEM))
    beside = ZipBox()
    inert = beside.file(mapping(w=beside.weight(), x=SYSTEM))
    version = edited(DOCUMENT, {"schema_version.major": 5})
    for layout in LAYOUTS:
        label = f"pt2 {layout}"
        yield FileCase(0, f"{label} as it should be", pickled(layout, good), tensors=GOOD)
        yield FileCase(1, f"{label} call instead of a weight", pickled(layout, call), ("missing-storage",))
        yield FileCase(1, f"{label} call beside a weight", pickled(layout, inert), tensors=GOOD)
        yield FileCase(13, f"{label} no archive", pickled(layout, b"\x80\x02}."), ("truncated",))
        yield FileCase(13, f"{label} archive cut off", pickled(layout, good[:-30]), ("truncated",))
        yield FileCase(25, f"{label} no tensors", pickled(layout, None), ("zip-layout",))
        yield FileCase(42, f"{label} schema 5", pickled(layout, good, version), ("pt2-version",))
