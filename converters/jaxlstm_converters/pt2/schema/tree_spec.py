"""Tree specs: the structure of arguments and results, as `torch.utils._pytree.treespec_dumps` writes it."""

from collections.abc import Mapping
from typing import Any

from jaxlstm.programs.graph import Tree
from jaxlstm_converters.checkpoint.errors import CheckpointError, describe, printable
from jaxlstm_converters.checkpoint.io.json_objects import parse_json
from jaxlstm_converters.pt2.schema.fields import field, malformed, typed, unsupported

MAX_DEPTH = 100
PROTOCOL = 1
_SEQUENCES = {"builtins.tuple": "tuple", "builtins.list": "list"}
_DICTS = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")


def read_tree_spec(text: str, namedtuples: Mapping[str, tuple[str, ...]], context: str) -> Tree:
    """Return the structure that a text describes.

    Args:
        text: "[1, {...}]", a protocol version and a tree of type, context and children.
        namedtuples: name of a registered namedtuple class -> its fields.
        context: "arguments" or "results", for error messages.
    """
    value = parse_json(text, "pt2-malformed")
    if type(value) is not list or len(value) != 2 or value[0] != PROTOCOL:
        raise malformed(context, f"expected a tree spec of version {PROTOCOL}")
    return _tree(value[1], namedtuples, context, 0)


def _tree(spec: Any, namedtuples: Mapping[str, tuple[str, ...]], context: str, depth: int) -> Tree:
    if depth > MAX_DEPTH:
        raise CheckpointError("too-deep", f"{context}: the structure has more than {MAX_DEPTH} levels")
    parts = field(spec, "children_spec", list, context)
    if spec.get("type") is None:
        if parts:
            raise malformed(context, "a leaf of the tree spec has children")
        return Tree("leaf")
    kind = field(spec, "type", str, context)
    children = tuple(_tree(part, namedtuples, context, depth + 1) for part in parts)
    if kind in _SEQUENCES:
        return Tree(_SEQUENCES[kind], children)
    if kind in _DICTS:
        tree = Tree("dict", children, _dict_keys(spec, kind, context))
    elif kind == "collections.namedtuple":
        # For a namedtuple the context is the name of its class, not JSON.
        name = spec.get("context")
        if type(name) is not str or name not in namedtuples:
            raise unsupported(context, f"the fields of the namedtuple {describe(name)} are not in the file")
        tree = Tree("namedtuple", children, namedtuples[name], name)
    else:
        message = f"{printable(kind)} is not supported; use tuples, lists, dicts or namedtuples"
        raise unsupported(context, message)
    if len(tree.keys) != len(children) or len(set(tree.keys)) != len(children):
        raise malformed(context, f"a {tree.kind} has {len(tree.keys)} keys and {len(children)} values")
    return tree


def _dict_keys(spec: Any, kind: str, context: str) -> tuple[str | int, ...]:
    """Return the keys of a dict, which are JSON in a string, or parsed for a defaultdict."""
    keys = spec.get("context")
    keys = parse_json(keys, "pt2-malformed") if type(keys) is str else keys
    if kind == "collections.defaultdict":
        keys = field(keys, "dict_context", list, context)
    for key in typed(keys, list, context):
        if type(key) not in (str, int):
            raise unsupported(context, f"a key of a dict is {describe(key)}, expected a string or an integer")
    return tuple(keys)
