"""Classes of modules: equal modules become one class, with arguments for what differs between them."""

import ast
import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from jaxlstm_converters.source.graph.calls import Invocation
from jaxlstm_converters.source.methods.context import Context
from jaxlstm_converters.source.methods.drafts import Draft, draft_of
from jaxlstm_converters.source.methods.method import Method
from jaxlstm_converters.source.modules.model import Model
from jaxlstm_converters.source.modules.parts import SELF, Part
from jaxlstm_converters.source.spelling.layers import attributes_of
from jaxlstm_converters.source.syntax import names, trees
from jaxlstm_converters.source.syntax.template import parameters_of


@dataclass
class WrittenClass:
    """A class that one or more modules share.

    Attributes:
        name: its name.
        draft: the draft of the first module, with names for the literals that differ.
        parameters: names of the arguments of ``__init__``.
        arguments: path of a module -> its arguments.
        defaults: the arguments with a default, which most modules have.
        tied: another name of a tensor in torch -> its name, in the class of the model.
    """

    name: str
    draft: Draft
    parameters: list[str] = field(default_factory=list)
    arguments: dict[str, list[ast.expr]] = field(default_factory=dict)
    defaults: dict[str, ast.expr] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def required(self) -> list[str]:
        """The arguments without a default."""
        return [name for name in self.parameters if name not in self.defaults]

    def construct(self, path: str) -> ast.expr:
        """Return the expression that makes the module at a path."""
        given = dict(zip(self.parameters, self.arguments[path], strict=True))
        values = {name: trees.hinted(copy.deepcopy(value), name) for name, value in given.items()}
        required = [] if len(self.required) > _MOST_POSITIONAL else self.required
        kwargs = {name: values[name] for name in (*self.required, *self.defaults) if name not in required}
        return trees.call(trees.name(self.name), *(values[name] for name in required), **kwargs, rngs=_RNGS)

    def find_defaults(self) -> None:
        """Make the most frequent value of an argument its default, sizes of layers apart."""
        for place, name in enumerate(self.parameters):
            values = [arguments[place] for arguments in self.arguments.values()]
            texts = [trees.shown(value) for value in values]
            most = max(texts, key=texts.count)
            if texts.count(most) * 2 >= len(texts) and not _SIZE.search(name):
                self.defaults[name] = copy.deepcopy(values[texts.index(most)])


def written_classes(
    model: Model, parts: Part, methods: dict[int, Method], remarks: dict[str, None]
) -> list[WrittenClass]:
    """Return the classes of a model, each after the classes that it uses, and add methods and remarks."""
    calls: dict[str, list[Invocation]] = {}
    for call in model.calls:
        if model.is_class(call):
            calls.setdefault(call.path, []).append(call)
    heights = {path: parts.at(path).height() for path in calls}
    found: list[WrittenClass] = []
    taken = {"Buffer", "Any"} | names.RESERVED
    for _, paths in itertools.groupby(sorted(calls, key=heights.__getitem__), heights.get):
        contexts = [Context(model, parts, methods, remarks, path) for path in paths]
        for written in _united(
            [draft_of(context, calls[context.path], methods) for context in contexts], taken
        ):
            found.append(written)
            for path in written.arguments:
                parts.at(path).made = written.construct(path)
    _drop_defaults(found)
    return found


def _drop_defaults(classes: Sequence[WrittenClass]) -> None:
    """Leave out arguments of the classes that equal their defaults."""
    defaults = {
        written.name: {(name, trees.shown(value)) for name, value in written.defaults.items()}
        for written in classes
    }
    for written in classes:
        for node in (node for tree in written.draft.init for node in ast.walk(tree)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defaults:
                known = defaults[node.func.id]
                node.keywords = [k for k in node.keywords if (k.arg, trees.shown(k.value)) not in known]


_MOST_POSITIONAL = 3
_SIZE = re.compile("(features|size|embeddings|shape)[0-9]*$")
_OPERANDS = {
    **dict.fromkeys((ast.Add, ast.Sub), "offset"),
    **dict.fromkeys((ast.Div, ast.FloorDiv), "divisor"),
    ast.Mult: "factor",
}
_RNGS = trees.name("rngs")


def _united(drafts: Sequence[Draft], taken: set[str]) -> list[WrittenClass]:
    """Return one class for all drafts that differ only in literals. Its name is added to ``taken``."""
    groups: dict[tuple[str, str], list[Draft]] = {}
    for draft in drafts:
        groups.setdefault((draft.class_name, _form(draft)), []).append(draft)
    return [_shared(group, taken) for group in groups.values()]


def _form(draft: Draft) -> str:
    """Return the text of a class in which literals are left out."""
    methods = [(name, [p.arg for p in method.parameters]) for name, method in draft.methods.items()]

    def masked(node: ast.AST) -> ast.expr | None:
        return trees.name("_literal") if is_literal(node) else None

    texts = [trees.shown(trees.replaced(copy.deepcopy(tree), masked)) for tree in draft.trees()]
    return repr((draft.base, len(draft.init), methods, texts))


def _shared(group: Sequence[Draft], taken: set[str]) -> WrittenClass:
    name = names.valid_name(group[0].class_name, taken, default="Model")
    taken.add(name)
    written = WrittenClass(name, group[0], arguments={draft.path: [] for draft in group})
    found = ([literal for tree in draft.trees() for literal in _literals(tree)] for draft in group)
    variables: dict[tuple[str, ...], str] = {}
    of_base = attributes_of(group[0].base)
    in_init = {id(literal) for tree in group[0].init for literal in _literals(tree)}
    replaced: dict[int, str] = {}
    used = {name for tree in group[0].trees() for name in trees.variables(tree)}
    used |= {n.attr for tree in group[0].trees() for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for literals in zip(*found, strict=True):
        values = tuple(map(trees.shown, literals))
        if len(set(values)) == 1:
            continue
        is_stored = id(literals[0]) not in in_init
        key = (*values, "stored") if is_stored and of_base else values
        if key not in variables:
            hint = getattr(literals[0], "hint", "") or "value"
            taken = used | {*variables.values()} | (of_base if is_stored else set())
            variables[key] = names.valid_name(hint, taken)
            written.parameters.append(variables[key])
            for draft, literal in zip(group, literals, strict=True):
                written.arguments[draft.path].append(literal)
        replaced[id(literals[0])] = variables[key]
    written.find_defaults()
    _substitute(group[0], replaced, in_init)
    return written


def _substitute(draft: Draft, replaced: Mapping[int, str], in_init: set[int]) -> None:
    """Replace literals by arguments of ``__init__``, and in methods by attributes that hold them."""
    stored = dict.fromkeys(name for literal, name in replaced.items() if literal not in in_init)
    parts = {
        literal: trees.name(name) if literal in in_init else trees.attribute(SELF, name)
        for literal, name in replaced.items()
    }
    for method in draft.methods.values():
        for statement in method.body:
            statement.tree = trees.replaced(statement.tree, lambda node: parts.get(id(node)))
    made = [trees.replaced(tree, lambda node: parts.get(id(node))) for tree in draft.init]
    draft.init = [*(trees.assign(trees.attribute(SELF, name), trees.name(name)) for name in stored), *made]


def _literals(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the literals in a tree, which get a hint from their place unless they have one."""
    if is_literal(node):
        yield node
        return
    for part, hint in _hints(node):
        if part is not None and hint and not hasattr(part, "hint"):
            trees.hinted(part, hint)
    for child in ast.iter_child_nodes(node):
        yield from _literals(child)


def is_literal(tree: ast.AST) -> TypeGuard[ast.expr]:
    """Return True for a number, string, bool, None, or a tuple of them."""
    if isinstance(tree, ast.Constant):
        return True
    if isinstance(tree, ast.UnaryOp):
        return isinstance(tree.op, ast.USub) and is_literal(tree.operand)
    if isinstance(tree, ast.Call):
        return trees.shown(tree.func) == "math.sqrt"
    return isinstance(tree, ast.Tuple) and bool(tree.elts) and all(map(is_literal, tree.elts))


def _hints(node: ast.AST) -> Iterator[tuple[ast.AST | None, str]]:
    """Yield parts of a node, each with the name that a literal in its place gets."""
    match node:
        case ast.keyword(arg=arg, value=value):
            yield value, arg or ""
        case ast.Call(func=ast.Attribute(attr="reshape"), args=args):
            yield from ((size, "size") for size in args)
        case ast.Call(func=function, args=args):
            yield from zip(args, parameters_of(trees.shown(function)), strict=False)
        case ast.Tuple() | ast.List():
            # An item of a shape is a size.
            hint = getattr(node, "hint", "").replace("shape", "size")
            yield from ((item, hint) for item in node.elts)
        case ast.Slice(lower=lower, upper=upper):
            yield from ((lower, "start"), (upper, "stop"))
        case ast.BinOp() | ast.AugAssign():
            yield from ((operand, _OPERANDS.get(type(node.op), "")) for operand in ast.iter_child_nodes(node))
