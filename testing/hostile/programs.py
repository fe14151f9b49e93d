"""Hostile `.pt2` files: versions, refused parts, configs, graphs, structures, expressions, other entries.

`archives.py` has the cases of the zip format itself.
"""

import json
from typing import Any

import numpy as np

from testing.hostile.archives import added
from testing.hostile.formats import FlatProgram, FolderProgram, Program, Zip
from testing.hostile.mutation import DELETED, Edits, Mutation, Table
from testing.hostile.opcodes import SYSTEM, WEIGHT, Weight, encode
from testing.hostile.tensors import GEOMETRIES
from testing.hostile.zip_archive import Member

VALID = Program()
(NODE,) = VALID.document["graph_module"]["graph"]["nodes"]
PAYLOAD = VALID.weights["config"]["w"]
BYTES = WEIGHT.tobytes()
PICKLED = (FlatProgram, FolderProgram)
GRAPH = "document.graph_module.graph"
SIGNATURE = "document.graph_module.signature"
ARGUMENT = f"{GRAPH}.nodes.0.inputs.1.arg"
CALL = "document.graph_module.module_call_graph.0.signature"
CONFIG = "weights.config.w"
META = f"{CONFIG}.tensor_meta"
DICT = "builtins.dict"
LEAF = {"type": None, "context": None, "children_spec": []}


def _tree(kind: str | None = None, context: str | None = "null", children: int = 1) -> dict[str, Any]:
    """Return the spec of a structure of some leaves."""
    return {"type": kind, "context": context, "children_spec": [LEAF] * children}


def _spec(*tree: Any) -> str:
    """Return the text of a spec, of the arguments of `_tree`."""
    return json.dumps([1, _tree(*tree)])


def _deep_graphs() -> Any:
    """Return a node whose graph has such a node, and so on."""
    node: dict[str, Any] = {"target": "torch.ops.higher_order.map_impl", "inputs": [], "outputs": []}
    for _ in range(30):
        graph = {"inputs": [], "outputs": [], "nodes": [node], "tensor_values": {}}
        node = {**node, "inputs": [{"name": "", "arg": {"as_graph": {"name": "g", "graph": graph}}}]}
    return node


def _deep_structure() -> str:
    tree: Any = LEAF
    for _ in range(200):
        tree = _tree("builtins.list") | {"children_spec": [tree]}
    return json.dumps([1, tree])


def _with_keyword() -> Any:
    """Return a program whose argument is a keyword."""
    (call,) = VALID.document["graph_module"]["module_call_graph"]
    arguments = _tree("builtins.tuple") | {
        "children_spec": [_tree("builtins.tuple", children=0), _tree(DICT, '["x"]')]
    }
    before, after = (json.dumps(x) for x in (call["signature"]["in_spec"], json.dumps([1, arguments])))
    return json.loads(json.dumps(VALID.document).replace(before, after))


def _ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


def _key_twice(config: Any) -> bytes:
    """Return the text of the config of one weight, with that weight twice."""
    good = json.dumps(config).encode()
    return good[:-2] + b', "w"' + good.partition(b'"w"')[2][:-2] + b"}}"


EXPRESSIONS = (
    "__import__('os').system('touch PWNED')",
    "Symbol('s0', positive=True, integer=True); __import__('os').system('touch PWNED')",
    "Pow(Integer(9), Pow(Integer(9), Pow(Integer(9), Integer(9))))",
    "factorial(10**9)",
    "(" * 100_000,
    "",
)


def _second(
    *more: Member, document: Any = VALID.document, config: Any = VALID.weights, name: str = "b"
) -> Any:
    """Return the edit that adds a second program."""
    constants = Member(f"m/data/constants/{name}_constants_config.json", b'{"config": {}}')
    texts = {f"models/{name}": document, f"data/weights/{name}_weights_config": config}
    return added(*(Member(f"m/{n}.json", json.dumps(x).encode()) for n, x in texts.items()), constants, *more)


def _many(members: list[Member], count: int = 1_000, name: str = "p") -> list[Member]:
    for number in range(count):
        members = _second(name=f"{name}{number}")(members)
    return members


OTHER = {"config": {"w": PAYLOAD | {"path_name": "weight_1"}}}
SWAPPED_AXES = PAYLOAD | {"tensor_meta": PAYLOAD["tensor_meta"] | {"strides": _ints(1, 2)}}
UNOPENED = ("data/sample_inputs/model.pt", "extra/x", "data/weights/weight_9", ".data/serialization_id")
PICKLED_SYSTEM = encode([b"\x80\x02", SYSTEM, b"."])
NAN = np.full((2, 2), np.nan, "<f4")

TABLE: Table = {
    Mutation(0, Program, ARGUMENT): {"140,000 references": {"as_tensors": [{"name": "x"}] * 140_000}},
    Mutation(0, Program, "document.torch_version"): {"text of 8 MB": "x" * 8_000_000},
    Mutation(1, PICKLED, "tensors", "missing-storage"): {"call as a weight": Zip(root={"w": SYSTEM}).content},
    Mutation(1, PICKLED, "tensors"): {"call beside a weight": Zip(root={"w": Weight(), "x": SYSTEM}).content},
    Mutation(8, Program, "document", "pt2-malformed"): {
        "brackets": b'{"a":' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}",
        "lists": b'{"a":[' + b"[]," * 6_000_000 + b"[]]}",
    },
    Mutation(10, Program, f"{CALL}.out_spec", "too-deep"): {"200 levels": _deep_structure()},
    Mutation(11, Program, "weights", "duplicate-key"): {"weight twice": _key_twice},
    Mutation(11, Program, "document", "duplicate-key"): {
        "key twice": lambda document: json.dumps(document).encode()[:-1] + b', "guards_code": []}'
    },
    Mutation(11, Program, "", "duplicate-name"): {
        "weight and constant": Edits(
            {"constants.config.w": PAYLOAD}, members=added(Member("m/data/constants/weight_0", BYTES))
        )
    },
    Mutation(13, PICKLED, "tensors", "truncated"): {
        "no archive": b"\x80\x02}.",
        "cut off": lambda raw: raw[:-30],
    },
    Mutation(19, Program, "weight", "storage-size"): [BYTES[:-1]],
    Mutation(20, Program, META, "tensor-shape tensor-bounds"): {
        label: Edits(storage_offset={"as_int": offset}, sizes=_ints(*size), strides=_ints(*stride))
        for label, (offset, size, stride) in GEOMETRIES.items()
    },
    Mutation(20, Program, f"{META}.sizes.0.as_int", "tensor-shape"): [1 << 64, True, "2"],
    Mutation(20, Program, f"{META}.sizes", "tensor-shape"): {"0 and 2^60": _ints(0, 1 << 60)},
    Mutation(21, Program, META, "tensor-budget"): {
        "expanded": Edits(sizes=_ints(1 << 31, 1 << 20), strides=_ints(0, 0))
    },
    Mutation(22, Program, "weights.config", "storage-dtype"): {
        "two dtypes": Edits({"v": PAYLOAD, "w.tensor_meta.dtype": 4})
    },
    Mutation(23, Program, "weights.config.v", tensors={"w": WEIGHT, "v": WEIGHT}): {"tied": PAYLOAD},
    Mutation(23, Program, "members"): {"1,000 programs": _many, "a second program": _second()},
    Mutation(11, Program, "members", "duplicate-name"): {
        "second program, other bytes": _second(Member("m/data/weights/weight_1", bytes(16)), config=OTHER),
        "second program, other strides": _second(config={"config": {"w": SWAPPED_AXES}}),
    },
    Mutation(13, Program, "members", "zip-layout"): {
        "two roots": added(Member("n/archive_format", b"pt2")),
        "second program alone": added(Member("m/models/b.json", json.dumps(VALID.document).encode())),
    },
    Mutation(25, Program, "members", "missing-storage"): {"second program": _second(config=OTHER)},
    Mutation(42, Program, "members", "pt2-version"): {"second program": _second(document={})},
    Mutation(24, Program, f"{CONFIG}.path_name", "storage-key"): [
        *("../x", "weight_0/../../x", "/etc/passwd", "weight_", "weight_٣", "x", "", 0, None)
    ],
    Mutation(25, Program, "weight", "tensor-bounds"): {"without bytes": b""},
    Mutation(25, Program, "weight", "missing-storage"): {"missing": None},
    Mutation(25, Program, f"{SIGNATURE}.input_specs.0.parameter.parameter_name", "missing-storage"): ["v"],
    Mutation(25, PICKLED, "tensors", "zip-layout"): {"missing": None},
    Mutation(26, Program, f"{META}.layout", "unsupported-tensor"): [0, 1, 2, 6, None],
    Mutation(26, Program, f"{META}.dtype", "unsupported-tensor"): [9, 31],
    Mutation(39, Program, "weight", tensors={"w": NAN}, warns=True): {"NaN": NAN.tobytes()},
    Mutation(42, Program, "archive_format", "pt2-version"): [b"pt3", b"pt2" + b" " * 100],
    Mutation(42, Program, "archive_version", "pt2-version"): [b"1", None],
    Mutation(42, Program, "document.schema_version.major", "pt2-version"): [9, 7, True, "8", None, [8]],
    Mutation(42, Program, "document.schema_version", "pt2-version"): {"no schema": DELETED},
    Mutation(42, Program, "members", "pt2-unsupported"): {"no program": lambda members: members[1:]},
    Mutation(42, PICKLED, "document.schema_version.major", "pt2-version"): [5],
    Mutation(43, Program, ARGUMENT, "pt2-unsupported"): {
        "subgraph": {"as_graph": {"name": "g", "graph": VALID.document["graph_module"]["graph"]}},
        "custom object": {"as_custom_obj": {"name": "o", "class_fqn": "os.system"}},
        "dictionary": {"as_string_to_argument": {"a": {"as_int": 1}}},
        "sparse layout": {"as_layout": 1},
    },
    Mutation(43, Program, f"{SIGNATURE}.input_specs", "pt2-unsupported"): {
        "custom object": Edits({"0": {"custom_obj": {"arg": {"name": "p_w"}, "custom_obj_name": "w"}}}),
        "integer": Edits({"1": {"user_input": {"arg": {"as_sym_int": {}}}}}),
    },
    Mutation(43, Program, f"{SIGNATURE}.output_specs.0", "pt2-unsupported"): {
        "loss": {"loss_output": {"arg": {"name": "mul"}}},
        "changed input": {"user_input_mutation": {"arg": {"name": "mul"}, "user_input_name": "x"}},
    },
    Mutation(43, Program, f"{GRAPH}.nodes.0.outputs.0", "pt2-unsupported"): {"unknown kind": {"as_int": 1}},
    Mutation(43, Program, CONFIG, "pt2-unsupported"): {
        "pickled weight": Edits(use_pickle=True),
        "weight that is neither pickled nor not": Edits(use_pickle=None),
        "custom object": Edits(path_name="custom_obj_0"),
    },
    Mutation(43, Program, f"{CALL}.out_spec", "pt2-unsupported"): {
        "unknown class": _spec("my.Class"),
        "namedtuple without fields": _spec("collections.namedtuple", "os.system"),
        "enum as a key": _spec(DICT, '[{"__enum__": true, "fqn": "os:x", "name": "y"}]'),
    },
    Mutation(44, Program, CONFIG, "pt2-malformed"): {
        "no meta": Edits(tensor_meta=None),
        "no path": Edits(path_name=DELETED),
    },
    Mutation(44, Program, META, "pt2-malformed"): {
        "dtype 99": Edits(dtype=99),
        "dtype as text": Edits(dtype="7"),
        "sizes as a number": Edits(sizes=4),
        "size as an expression": Edits({"sizes.0": {"as_expr": {"expr_str": "2"}}}),
    },
    Mutation(44, Program, "weights", "pt2-malformed"): [{"config": []}, {}, b'"w"'],
    Mutation(44, Program, f"{GRAPH}.nodes.0.target", "pt2-malformed"): [
        "torch.ops.higher_order.wrap_with_autocast"
    ],
    Mutation(44, Program, f"{GRAPH}.nodes.0", "too-deep"): {"deep graphs": _deep_graphs()},
    Mutation(44, Program, ARGUMENT, "pt2-malformed"): {
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
    },
    Mutation(44, Program, GRAPH, "pt2-malformed"): {
        "node without target": Edits({"nodes.0.target": DELETED}),
        "target with a call": Edits({"nodes.0.target": "os.system('touch PWNED')"}),
        "argument twice": Edits({"nodes.0.inputs.1.name": "self"}),
        "result name with a space": Edits({"nodes.0.outputs.0": {"as_tensor": {"name": "a b"}}}),
        "nodes as an object": Edits(nodes={}),
        "no types": Edits(tensor_values={}),
        "type of size 1.0": Edits({"tensor_values.x.sizes.0": {"as_float": 1.0}}),
        "type of size -1": Edits({"tensor_values.x.sizes.0": {"as_int": -1}}),
        "weight of another shape": Edits({"tensor_values.p_w.sizes.0": {"as_int": 3}}),
        "weight of another dtype": Edits({"tensor_values.p_w.dtype": 8}),
        "placeholder missing": Edits(inputs=[{"as_tensor": {"name": "x"}}]),
        "placeholders swapped": Edits(inputs=lambda inputs: inputs[::-1]),
    },
    Mutation(44, Program, SIGNATURE, "pt2-malformed"): {
        "output undefined": Edits({"output_specs.0.user_output.arg.as_tensor.name": "y"}),
        "buffer that is no input": Edits(
            {"output_specs.0": {"buffer_mutation": {"arg": {"name": "mul"}, "buffer_name": "b"}}}
        ),
        "list as a constant": Edits(
            {"input_specs.1": {"constant_input": {"name": "x", "value": {"as_ints": [1]}}}}
        ),
    },
    Mutation(44, Program, "document", "pt2-malformed"): {
        "no graph": Edits(graph_module={}),
        "range as text": Edits(range_constraints="s0"),
        "no call of the root": Edits({"graph_module.module_call_graph": []}),
        "not JSON": b"{'a': 1}",
        "a list": b"[]",
        "a number of 10^400": b'{"a": 1e400}',
    },
    Mutation(44, Program, GRAPH, "duplicate-name"): {
        "node twice": Edits(nodes=[NODE, NODE]),
        "name twice": Edits(nodes=[NODE, NODE | {"outputs": [{"as_tensor": {"name": "mul_1"}}]}]),
        "result named as an input": Edits({"nodes.0.outputs.0": {"as_tensor": {"name": "x"}}}),
    },
    Mutation(44, Program, f"{CALL}.out_spec", "pt2-malformed"): {
        "brackets": "[" * 100_000,
        "version 2": json.dumps([2, LEAF]),
        "not JSON": "[1, {'type': None}]",
        "no leaf": _spec(DICT, "[]", 0),
        "leaf with children": _spec(None, None),
        "key twice": _spec(DICT, '["a", "a"]', 2),
        "more keys than values": _spec(DICT, '["a", "b"]'),
    },
    Mutation(44, Program, f"{CALL}.in_spec", "pt2-malformed"): {"no pair": _spec("builtins.tuple")},
    Mutation(45, Program, f"{GRAPH}.tensor_values.x.sizes.0"): {
        str(index): {"as_expr": {"expr_str": text}} for index, text in enumerate(EXPRESSIONS)
    },
    Mutation(44, Program, "members", "pt2-malformed"): {
        "second program": _second(document={**VALID.document, "graph_module": {}}),
        "branch of other arguments": _second(document=_with_keyword(), name="model@1"),
        "four branches": lambda members: _many(members, 4, "model@"),
        "65 programs of other sizes": lambda members: _many(members, 65, "model@sizes"),
    }
    | {
        f"calls {label}": added(Member("m/extra/jaxlstm_calls", text.encode()))
        for label, text in {
            "as a list": "[]",
            "without results": '{"a": [[]]}',
            "with three parts of an argument": '{"a": [[["x", "x", "x"]], null]}',
            "with a number": '{"a": [[["x", 1]], null]}',
        }.items()
    },
    Mutation(44, Program, "members", "too-deep"): {
        "calls of 200 levels": added(
            Member("m/extra/jaxlstm_calls", b'{"a": [[], %s]}' % (b"[" * 200 + b"]" * 200))
        )
    },
    Mutation(45, Program, "document.guards_code"): {"all": list(EXPRESSIONS)},
    Mutation(46, Program, "members"): {
        f"{name} of checksum {crc}": added(Member(f"m/{name}", PICKLED_SYSTEM, crc=crc))
        for name in UNOPENED
        for crc in (None, 1)
    },
}
