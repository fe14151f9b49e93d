"""The modules of a program as a tree: how each is made in ``__init__``, and how a parent reaches it."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jaxlstm_converters.source.spelling.layers import DICT
from jaxlstm_converters.source.syntax import names, trees

SELF = trees.name("self")


@dataclass
class Part:
    """A module, tensor or container.

    Attributes:
        path: its path in torch.
        kind: "class", "layer", "tensor", "function" or "container".
        made: the expression that makes it.
        parts: its parts, by name in torch.
        is_chain: True for a list whose calls run all elements one after the other.
        is_used: False for a tensor that no operator takes.
    """

    path: str = ""
    kind: str = "container"
    made: ast.expr | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    is_chain: bool = False
    is_used: bool = True

    def at(self, path: str) -> Part:
        """Return the part at a path below this one, which is added if it is missing."""
        part = self
        for name in filter(None, path.split(".")):
            inner = f"{part.path}.{name}" if part.path else name
            part = part.parts.setdefault(name, Part(inner))
        return part

    def down(self, path: str) -> Iterator[tuple[str, Part, Part]]:
        """Yield each name of a path, its part, and the part around; a missing part is an empty container."""
        around = self
        for name in filter(None, path.split(".")):
            part = around.parts.get(name, Part())
            yield name, part, around
            around = part

    def find(self, path: str) -> Part:
        """Return the part at a path."""
        return [self, *(part for _, part, _ in self.down(path))][-1]

    def has(self, path: str) -> bool:
        """Return True if a part at a path, or around it, is another name of a module."""
        return any(part.kind == "function" for _, part, _ in self.down(path))

    @property
    def filled(self) -> dict[str, Part]:
        """The parts without empty containers, such as modules of torch that only compute."""
        return {name: part for name, part in self.parts.items() if part.kind != "container" or part.filled}

    @property
    def is_unused(self) -> bool:
        """True for a container of nothing but tensors that no operator takes."""
        kinds = ((part.kind, part.kind == "tensor" and part.is_used) for part in self.walk())
        return self.kind == "container" and {*kinds} <= {("container", False), ("tensor", False)}

    @property
    def is_list(self) -> bool:
        """True if all parts have numbers."""
        return bool(self.filled) and all(name.isdecimal() for name in self.parts)

    @property
    def is_whole_list(self) -> bool:
        """True if the parts are numbered from 0 without a gap."""
        return self.is_list and len(self.parts) == max(map(int, self.parts)) + 1

    def written_name(self, name: str) -> str:
        """Return the name of a tensor in the written model: torch's, unless Python or Flax cannot have it."""
        found = []
        for inner, _, around in self.down(name):
            is_key = around.is_list or (around.kind == "container" and around is not self)
            found.append(inner if is_key else around.attribute(inner))
        return ".".join(found)

    def attribute(self, name: str) -> str:
        """Return the attribute that holds a part: torch's name, unless Python or Flax cannot have it."""
        attribute = names.attribute_name(name)
        while attribute != name and attribute in self.parts:
            attribute += "_"
        return attribute

    def has_attribute(self, name: str) -> bool:
        """Return True if a container can show a part as an attribute."""
        return self.attribute(name) == name and name not in DICT

    def height(self) -> int:
        """Return the number of classes on the longest way down from this part."""
        below = max((part.height() for part in self.parts.values()), default=0)
        return below + (self.kind == "class")

    def walk(self) -> Iterator[Part]:
        """Yield this part and all below it."""
        yield self
        for part in self.parts.values():
            yield from part.walk()


def access(root: Part, scope: str, path: str, known: Mapping[str, ast.expr] | None = None) -> ast.expr:
    """Return the expression that reaches the part at a path from the module at ``scope``.

    ``known`` has the expressions of parts that have variables.
    """
    expression: ast.expr = SELF
    relative = path[len(scope) :].lstrip(".") if scope else path
    for name, part, around in root.find(scope).down(relative):
        if around.is_chain:
            expression = trees.attribute(expression, "layers")
        if around.is_list:
            expression = trees.item(expression, int(name))
        elif around.kind == "container" and around is not root and not around.has_attribute(name):
            expression = trees.item(expression, name)
        else:
            expression = trees.attribute(expression, around.attribute(name))
        expression = (known or {}).get(part.path, expression)
    return expression


def initialized(part: Part) -> list[ast.stmt]:
    """Return the statements of ``__init__`` of a class."""
    if part.is_list:
        return [ast.Expr(ast.Call(trees.parsed("super().__init__"), _elements(part), []))]
    return [
        trees.assign(trees.attribute(SELF, part.attribute(name)), made(child))
        for name, child in part.filled.items()
    ]


def made(part: Part) -> ast.expr:
    """Return the expression that makes a part."""
    if part.kind != "container":
        assert part.made is not None, part.path
        return part.made
    if part.is_unused and any(child.kind == "container" for child in part.filled.values()):
        tensors = [tensor for tensor in part.walk() if tensor.kind == "tensor"]
        members = {tensor.path[len(part.path) + 1 :]: made(tensor) for tensor in tensors}
    elif part.is_list:
        return ast.Call(trees.parsed("nnx.Sequential" if part.is_chain else "nnx.List"), _elements(part), [])
    else:
        members = {name: made(child) for name, child in part.filled.items()}
    if all(map(part.has_attribute, members)):
        return trees.call(trees.parsed("nnx.Dict"), **members)
    keys: list[ast.expr | None] = [*map(ast.Constant, members)]
    return trees.call(trees.parsed("nnx.Dict"), ast.Dict(keys, [*members.values()]))


def _elements(part: Part) -> list[ast.expr]:
    """Return the arguments of a list: the elements of a chain, else a list of them or a comprehension."""
    items = _items(part)
    if part.is_chain:
        return items
    if len(items) == 1 and isinstance(items[0], ast.Starred) and isinstance(items[0].value, ast.GeneratorExp):
        return [ast.ListComp(items[0].value.elt, items[0].value.generators)]
    return [ast.List(items, ast.Load())]


def _items(part: Part) -> list[ast.expr]:
    """Return the elements of a list; torch numbers modules without parameters too."""
    parts = [part.filled.get(str(index), Part()) for index in range(max(map(int, part.filled)) + 1)]
    items = [made(element) if element.path else ast.Constant(None) for element in parts]
    is_module = [element.kind in ("class", "layer") or element.is_chain for element in parts]
    texts = [trees.shown(item) if module else "" for item, module in zip(items, is_module, strict=True)]
    grouped: list[ast.expr] = []
    for text, run in itertools.groupby(zip(texts, items, strict=True), lambda pair: pair[0]):
        equal = [item for _, item in run]
        if text and (len(equal) > 2 or len(equal) == len(items) > 1):
            numbers = trees.call(trees.name("range"), ast.Constant(len(equal)))
            made_each = ast.comprehension(ast.Name("_", ast.Store()), numbers, [], 0)
            grouped.append(ast.Starred(ast.GeneratorExp(equal[0], [made_each]), ast.Load()))
        else:
            grouped += equal
    return grouped
