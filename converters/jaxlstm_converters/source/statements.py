"""The statements of a method: one call of a module as Python."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from jaxlstm.programs.graph import Argument, Graph, Node, TensorType, Value, values_in
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.calls import Invocation, Item, nodes_of, results_of, uses_of
from jaxlstm_converters.source.names import Target
from jaxlstm_converters.source.sizes import Sizes
from jaxlstm_converters.source.spelling import Spelling
from jaxlstm_converters.source.spelling.template import tree_of

# The names of the results of a call, as Python unpacks them; None where a result is not used.
Pattern: TypeAlias = "str | tuple[Pattern, ...] | None"

_LONGEST = 88
_SEVERAL = {"lstm": ("y", "h", "c"), "lstm_cell": ("h", "c"), "gru": ("y", "h"), "max": ("values", "indices")}
_KINDS = {
    "softmax": "weights",
    "bmm": "scores",
    "matmul": "scores",
    "arange": "positions",
    "argmax": "best",
    "ne": "mask",
    "eq": "mask",
    "lt": "mask",
    "gt": "mask",
    "ge": "mask",
    "le": "mask",
    "logical_not": "mask",
    "bitwise_not": "mask",
    "mean": "mean",
    "cat": "joined",
    "stack": "stacked",
    "zeros": "zeros",
}
_LETTERS = ("y", "z", "u", "v", "w", "p", "q", "r", "s", "a", "b", "c", "d", "e", "f", "g", "k", "m", "n")


@dataclass(frozen=True)
class Called:
    """How a parent calls a module: an expression with marked values, and the pattern of its results."""

    expression: ast.expr
    results: Pattern
    uses: tuple[str, ...]


@dataclass
class Statement:
    """A statement, with the line of the user's code that it stands for."""

    tree: ast.stmt
    line: str = ""


@dataclass
class Method:
    """A method: the names of its parameters, and its statements."""

    parameters: list[ast.arg]
    body: list[Statement] = field(default_factory=list)
    keywords: list[ast.arg] = field(default_factory=list)


@dataclass(frozen=True)
class LineItem:
    """One item of a method: a node, a call, or the calls of a chain of modules one after the other."""

    item: Item
    line: str
    key: str
    forced: bool = False


@dataclass(frozen=True)
class Context:
    """What a method needs to know about the rest of the program.

    Attributes:
        types: the types of all values.
        sizes: the sizes of the graph.
        spell: gives a node in the module at a path as an expression of marked values.
        call: gives the call of a module; None if its items stand in the parent.
        chain: True if a call runs all elements of a list one after the other.
        tensor: gives the expression of a tensor of the module at a path; None for other values.
        owners: placeholder of a parameter, buffer or constant -> its name in torch.
    """

    types: Mapping[str, TensorType]
    sizes: Sizes
    spell: Callable[[Node, str, Callable[[Argument], ast.expr]], Spelling]
    call: Callable[[Invocation, str], Called | None]
    chain: Callable[[Invocation, str], ast.expr | None]
    tensor: Callable[[str, str], ast.expr | None]
    owners: Mapping[str, str]


def marked(name: str) -> ast.Name:
    """Return the name that stands for a value until its expression is known."""
    return ast.Name(trees.MARK + name, ast.Load())


class MethodWriter:
    """Writes the method of one call."""

    def __init__(self, call: Invocation, context: Context) -> None:
        self._call = call
        self._context = context
        self._steps = list(self._expanded(call))
        self._left = self._count_uses()
        self._needed = {size for name in self._left for size in context.sizes.leaves(name)}
        self._values: dict[str, ast.expr] = {}
        self._sizes: dict[str, ast.expr] = {}
        self._header: dict[str, tuple[str, int]] = {}
        self._statements: list[Statement] = []
        self._parameters: dict[str, str] = {}
        self._functions: set[str] = set()
        self._planned: dict[str, str] = {}
        self._names_before: dict[str, list[str]] = {}
        self._names_now: dict[str, list[str]] = {}

    def method(self) -> Method:
        """Return the method of a module that another one calls."""
        for name in self._call.inputs:
            line = self._first_use(name)
            candidates = [*self._argument_names(line, name), "x", "y", "z", "u", "v", "w"]
            if (torch_name := self._context.owners.get(name)) is not None:
                candidates = [names.valid_name(torch_name.rpartition(".")[2])]
            variable = next((c for c in candidates if c not in self._parameters.values()), "")
            self._take(name, variable or names.unique("x", set(self._parameters.values())))
        body = self._body()
        body += self._result(_tuple([self._value(name) for name in self._call.outputs]))
        return Method([ast.arg(name) for name in self._parameters.values()], self._finished(body))

    def outermost(
        self,
        signature: Method,
        bound: Mapping[str, ast.expr],
        result: Callable[[Callable[[Argument], ast.expr]], ast.expr],
        changed: Sequence[tuple[ast.expr, Argument]],
    ) -> Method:
        """Return the method of the outermost module.

        Args:
            signature: its parameters.
            bound: the expression of each input.
            result: builds the results from a function that gives the expression of an argument.
            changed: the expression of each buffer that the program changes, and its new value.
        """
        for name, expression in bound.items():
            self._values[name] = expression
            if isinstance(expression, ast.Name):
                self._parameters[name] = expression.id
        body = self._body()
        returned = result(self._argument)
        body += [Statement(trees.assign(buffer, self._argument(value))) for buffer, value in changed]
        body += self._result(returned)
        return Method(signature.parameters, self._finished(body), signature.keywords)

    def _result(self, value: ast.expr) -> list[Statement]:
        """Return the statements that return a value, which gets a variable: it may end a loop."""
        variables = [name for name in trees.variables(value) if name in self._parameters.values()]
        if isinstance(value, ast.BinOp) and (variables := variables or trees.variables(value)):
            variable = trees.name(variables[0])
            return [Statement(trees.assign(variable, value)), Statement(ast.Return(variable))]
        return [Statement(ast.Return(value))]

    def _take(self, name: str, variable: str) -> None:
        self._parameters[name] = variable
        (self._sizes if self._context.sizes.is_size(name) else self._values)[name] = trees.name(variable)

    def _expanded(self, call: Invocation) -> Iterator[LineItem]:
        for item in call.body:
            line = _line(item, self._call.path)
            if isinstance(item, Node):
                yield LineItem(item, line, item.op)
            elif self._context.chain(item, self._call.path) is not None:
                yield LineItem(item, line, item.path, forced=True)
            elif self._context.call(item, self._call.path) is None:
                yield from self._expanded(item)
            else:
                # A statement for each module of a list may become a loop.
                is_element = call is self._call and item.path.rpartition(".")[2].isdecimal()
                yield LineItem(item, line, re.sub(r"\d+", "#", item.path), forced=is_element)

    def _count_uses(self) -> dict[str, int]:
        left: dict[str, int] = {}
        for step in self._steps:
            for name in self._uses(step.item):
                left[name] = left.get(name, 0) + 1
        for name in self._call.outputs:
            left[name] = left.get(name, 0) + 1
        return left

    def _uses(self, item: Item) -> Sequence[str]:
        if isinstance(item, Node):
            return list(uses_of(item))
        called = self._context.call(item, self._call.path)
        return called.uses if called else item.inputs

    def _first_use(self, name: str) -> str:
        """Return the line that uses an input first."""
        return next((step.line for step in self._steps if name in self._uses(step.item)), "")

    def _argument_names(self, line: str, name: str) -> list[str]:
        """Return the first name in a line for an input that no other input has."""
        found = [argument for argument in names.arguments(line) if argument not in self._parameters.values()]
        return [name for name in found if name not in ("F", "torch", "nn", "s")][:1]

    def _body(self) -> list[Statement]:
        run: list[LineItem] = []
        for place, step in enumerate(self._steps):
            after = self._steps[place + 1] if place + 1 < len(self._steps) else None
            run.append(step)
            # The next round of a loop has the same line.
            repeats = after is not None and after.forced and any(other.key == after.key for other in run)
            if after is None or after.line != step.line or repeats:
                self._write_line(run)
                run = []
        return self._statements

    def _write_line(self, run: Sequence[LineItem]) -> None:
        """Write the steps of one line of the user's code."""
        targets = names.targets(run[-1].line)
        inner = [name for step in run for name in self._uses(step.item)]
        made = [name for step in run for node in nodes_of(step.item) for name in results_of(node)]
        left = [name for name in made if self._left.get(name, 0) > inner.count(name)]
        planned = names.leaves(targets)
        if len(run) > 1 and len(planned) == len(left) > 1:
            # Several values of one line: a, b = f(x), g(x).
            self._planned.update(zip(left, planned, strict=True))
        for place, step in enumerate(run):
            ends = place == len(run) - 1
            self._write(step, targets if ends else [], ends)

    def _write(self, step: LineItem, targets: Sequence[Target], ends: bool) -> None:
        item = step.item
        if isinstance(item, Node) and item.op == "higher_order.cond":
            expression = self._resolved(self._conditional(item))
            pattern = self._result_pattern(item)
        elif isinstance(item, Node):
            spelling = self._context.spell(item, self._call.path, self._placeholder)
            expression = _with_inferred_size(self._resolved(spelling.expr))
            pattern = self._result_pattern(item)
        elif (chain := self._context.chain(item, self._call.path)) is not None:
            self._write_chain(step, chain, targets)
            return
        else:
            called = self._context.call(item, self._call.path)
            assert called is not None
            expression, pattern = self._resolved(called.expression), self._used(called.results)
        for name in self._uses(item):
            self._left[name] -= 1
        self._assign(step, expression, pattern, targets, ends)
        # Elements of a list give their results the names of the element before: they may become a loop.
        self._names_before[step.key] = self._names_now.pop(step.key, [])
        self._read_inner_sizes(pattern)

    def _assign(
        self, step: LineItem, expression: ast.expr, pattern: Pattern, targets: Sequence[Target], ends: bool
    ) -> None:
        if pattern is None or (isinstance(pattern, tuple) and not _names_in(pattern)):
            return
        if isinstance(pattern, str):
            target = targets[0] if len(targets) == 1 and isinstance(targets[0], str) else ""
            target = self._planned.get(pattern, target)
            if self._is_inlined(step, expression, pattern, target, ends):
                self._values[pattern] = expression
                return
            tree = self._named(pattern, target, step, expression)
        else:
            fits = len(targets) == len(pattern) and _leaves_fit(targets, pattern)
            given = targets if fits else _usual(step.item, pattern)
            tree = self._unpacked(pattern, given, step, expression)
        self._statements.append(Statement(trees.assign(tree, expression), step.line))

    def _is_inlined(self, step: LineItem, expression: ast.expr, value: str, target: str, ends: bool) -> bool:
        if isinstance(expression, ast.Name | ast.Constant):
            return True
        if self._left.get(value, 0) != 1 or step.forced:
            return False
        return not (target and (ends or value in self._planned)) and len(trees.shown(expression)) <= _LONGEST

    def _unpacked(
        self, pattern: tuple[Pattern, ...], targets: Sequence[Target], step: LineItem, expression: ast.expr
    ) -> ast.expr:
        """Return the target of an assignment that unpacks a tuple."""
        items: list[ast.expr] = []
        for part, target in zip(pattern, targets, strict=True):
            if part is None or (isinstance(part, tuple) and not _names_in(part)):
                items.append(trees.name("_"))
            elif isinstance(part, tuple):
                given = target if isinstance(target, list) and len(target) == len(part) else [""] * len(part)
                items.append(self._unpacked(part, given, step, expression))
            else:
                items.append(self._named(part, target if isinstance(target, str) else "", step, expression))
        return ast.Tuple(items, ast.Load())

    def _named(self, value: str, target: str, step: LineItem, expression: ast.expr) -> ast.Name:
        """Give a value a variable, which no other value in use has."""
        taken = self._taken()
        before = self._names_before.get(step.key, [])
        place = len(self._names_now.setdefault(step.key, []))
        same = before[place : place + 1] if step.forced else []
        candidates = [target, *same, *self._fallbacks(step, expression), *_LETTERS]
        name = next((c for c in candidates if c and names.is_name(c) and c not in taken), "")
        self._names_now[step.key].append(name)
        variable = ast.Name(name or names.unique("value", taken), ast.Load())
        self._values[value] = variable
        return variable

    def _fallbacks(self, step: LineItem, expression: ast.expr) -> list[str]:
        if isinstance(step.item, Node):
            kind = _kind(step.item)
            if kind in _KINDS:
                return [_KINDS[kind]]
        return trees.variables(expression)[:4]

    def _taken(self) -> set[str]:
        """Return the variables that values in use need."""
        taken = set(self._functions)
        for name, expression in self._values.items():
            if self._left.get(name, 0) > 0:
                taken.update(trees.variables(expression))
        for expression in self._sizes.values():
            taken.update(trees.variables(expression))
        return taken

    def _write_chain(self, step: LineItem, modules: ast.expr, targets: Sequence[Target]) -> None:
        """Write the calls of a chain as a loop."""
        assert isinstance(step.item, Invocation)
        (source,), (result,) = step.item.inputs, step.item.outputs
        start = self._value(source)
        self._left[source] -= 1
        target = targets[0] if len(targets) == 1 and isinstance(targets[0], str) else ""
        variable = self._named(result, target or _only_name(start), step, start)
        if ast.dump(start) != ast.dump(variable):
            self._statements.append(Statement(trees.assign(variable, start), step.line))
        element = names.unique("layer", self._taken() | {variable.id})
        body = [trees.assign(variable, trees.call(trees.name(element), variable))]
        self._statements.append(Statement(trees.loop(trees.name(element), modules, body), step.line))

    def _result_pattern(self, node: Node) -> Pattern:
        outputs = tuple(self._pattern(output) for output in node.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _pattern(self, output: str | tuple[str, ...] | None) -> Pattern:
        if isinstance(output, tuple):
            return tuple(self._pattern(name) for name in output)
        return output if output is not None and self._left.get(output, 0) > 0 else None

    def _used(self, pattern: Pattern) -> Pattern:
        if isinstance(pattern, tuple):
            return tuple(self._used(part) for part in pattern)
        return self._pattern(pattern)

    def _placeholder(self, argument: Argument) -> ast.expr:
        """Return an argument in which marked names stand for values."""
        return tree_of(argument, self._expression)

    def _expression(self, argument: Argument) -> ast.expr:
        if isinstance(argument, Graph):
            return self._function(argument)
        assert isinstance(argument, Value), argument
        if self._context.sizes.is_size(argument.name):
            return self._context.sizes.expression(argument.name, self._size)
        return marked(argument.name)

    def _conditional(self, node: Node) -> ast.expr:
        """Return the call of ``lax.cond``, whose functions return a single result as it is."""
        condition, first, second, operands = node.args
        assert isinstance(operands, tuple)
        branches = [self._function(graph, len(graph.outputs) == 1) for graph in (first, second)]  # type: ignore[union-attr]
        arguments = [self._placeholder(operand) for operand in operands]
        return trees.call(trees.parsed("lax.cond"), self._placeholder(condition), *branches, *arguments)

    def _function(self, graph: Graph, single: bool = False) -> ast.expr:
        """Write the function that ``cond`` or a loop calls, and return its name."""
        inputs = tuple(declared.name for declared in graph.inputs)
        outputs = tuple(name for output in graph.outputs for name in values_in(output))
        inner = Invocation(
            self._call.path, self._call.class_name, self._call.depth, list(graph.nodes), inputs, outputs
        )
        writer = MethodWriter(inner, self._context)
        for place, name in enumerate(inputs):
            writer._take(name, _LETTERS[place % len(_LETTERS)] + "_" * (place // len(_LETTERS)))
        body = writer._body()
        results = ast.Tuple([writer._argument(output) for output in graph.outputs], ast.Load())
        body.append(Statement(ast.Return(results.elts[0] if single else results)))
        name = names.unique("branch", self._taken() | self._functions)
        self._functions.add(name)
        parameters = ast.arguments(
            [], [ast.arg(p) for p in writer._parameters.values()], None, [], [], None, []
        )
        trees_ = [statement.tree for statement in writer._finished(body)]
        self._statements.append(Statement(ast.FunctionDef(name, parameters, trees_, [], lineno=1)))
        return trees.name(name)

    def _argument(self, argument: Argument) -> ast.expr:
        return self._resolved(self._placeholder(argument))

    def _resolved(self, tree: ast.expr) -> ast.expr:
        """Return an expression with the expressions of its values; a value used twice gets a variable."""
        counts: dict[str, int] = {}
        for name in trees.marks(tree):
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            simple = isinstance(self._value(name), ast.Name | ast.Constant | ast.Attribute | ast.Subscript)
            if count > 1 and not simple:
                expression = self._values[name]
                variable = self._named(name, "", LineItem(self._call, "", ""), expression)
                self._statements.append(Statement(trees.assign(variable, expression)))
        return _Replace(self._value).visit(copy.deepcopy(tree))

    def _value(self, name: str) -> ast.expr:
        if self._context.sizes.is_size(name):
            return self._context.sizes.expression(name, self._size)
        if name in self._values:
            return self._values[name]
        tensor = self._context.tensor(name, self._call.path)
        assert tensor is not None, f"{name} is not defined in {self._call.path}"
        return tensor

    def _size(self, symbol: str) -> ast.expr:
        """Return the expression of a free size."""
        if symbol not in self._sizes:
            name, axis = self._parameter_with(symbol)
            variable = self._size_name(name, axis)
            self._header[variable] = (self._parameters[name], axis)
            self._sizes[symbol] = trees.name(variable)
        return self._sizes[symbol]

    def _parameter_with(self, symbol: str) -> tuple[str, int]:
        """Return the first parameter that has an axis of a size, and this axis."""
        axes = ((name, self._context.sizes.axis_of(name, symbol)) for name in self._parameters)
        found = next(((name, axis) for name, axis in axes if axis is not None), None)
        assert found is not None, f"{symbol} is not known in {self._call.path}"
        return found

    def _read_inner_sizes(self, pattern: Pattern) -> None:
        """Read the sizes that no parameter shows from the value that shows them first."""
        sizes = self._context.sizes
        for name in _names_in(pattern):
            for symbol in sizes.symbols_of(name):
                is_missing = symbol in self._needed and symbol not in self._sizes
                if not is_missing or any(
                    sizes.axis_of(known, symbol) is not None for known in self._parameters
                ):
                    continue
                axis = sizes.axis_of(name, symbol)
                assert axis is not None
                variable = trees.name(self._size_name(name, axis))
                shape = trees.attribute(copy.deepcopy(self._values[name]), "shape")
                self._statements.append(Statement(trees.assign(variable, trees.item(shape, axis))))
                self._sizes[symbol] = variable

    def _size_name(self, name: str, axis: int) -> str:
        shape = self._context.types[name].shape
        free = [place for place in range(1, len(shape)) if not isinstance(shape[place], int)]
        kind = (
            "batch" if axis == 0 else "length" if len(free) < 2 else "height" if axis == free[0] else "width"
        )
        taken = {*self._taken(), *self._parameters.values(), *self._header}
        taken |= {target for step in self._steps for target in names.leaves(names.targets(step.line))}
        return names.unique(kind, taken)

    def _finished(self, statements: list[Statement]) -> list[Statement]:
        """Return the statements with the sizes read at the start."""
        loads: dict[str, int] = {}
        stores: set[str] = set()
        for statement in statements:
            stores.update(trees.variables(statement.tree, ast.Store))
            for name in trees.variables(statement.tree, ast.Load):
                loads[name] = loads.get(name, 0) + 1
        inline: dict[str, ast.expr] = {}
        holders: dict[str, dict[int, str]] = {}
        for variable, (holder, axis) in self._header.items():
            if loads.get(variable, 0) == 1 and holder not in stores:
                inline[variable] = trees.item(trees.attribute(trees.name(holder), "shape"), axis)
            elif variable in loads:
                holders.setdefault(holder, {})[axis] = variable
        for statement in statements:
            statement.tree = _Inline(inline).visit(statement.tree)
        read = []
        for holder, axes in holders.items():
            name = next(name for name, variable in self._parameters.items() if variable == holder)
            read.append(Statement(_read_sizes(holder, axes, len(self._context.types[name].shape))))
        return [*read, *statements]


def _read_sizes(holder: str, axes: Mapping[int, str], ndim: int) -> ast.stmt:
    """Return ``b, t = x.shape[:2]``."""
    shape = trees.attribute(trees.name(holder), "shape")
    if len(axes) == 1:
        ((axis, name),) = axes.items()
        return trees.assign(trees.name(name), trees.item(shape, axis))
    count = max(axes) + 1
    targets = ast.Tuple([trees.name(axes.get(axis, "_")) for axis in range(count)], ast.Load())
    if count == ndim:
        return trees.assign(targets, shape)
    part = ast.Slice(None, ast.Constant(count), None)
    return trees.assign(targets, ast.Subscript(shape, part, ast.Load()))


def _with_inferred_size(tree: ast.expr) -> ast.expr:
    """Return a call of reshape with -1 in place of the longest expression of a size."""
    if not (
        isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr == "reshape"
    ):
        return tree
    computed = [arg for arg in tree.args if isinstance(arg, ast.BinOp)]
    if computed and all(isinstance(arg, ast.Constant | ast.Name | ast.BinOp) for arg in tree.args):
        longest = max(computed, key=lambda arg: len(trees.shown(arg)))
        tree.args = [trees.parsed("-1") if arg is longest else arg for arg in tree.args]
    return tree


def returned(statements: list[Statement]) -> list[Statement]:
    """Return statements without a variable that is set and returned at once."""
    if len(statements) < 2:
        return statements
    *before, last, end = statements
    is_set = isinstance(last.tree, ast.Assign) and isinstance(last.tree.targets[0], ast.Name)
    value = end.tree.value if isinstance(end.tree, ast.Return) else None
    if is_set and value is not None and trees.shown(value) == last.tree.targets[0].id:  # type: ignore[attr-defined]
        return [*before, Statement(ast.Return(last.tree.value), last.line)]  # type: ignore[attr-defined]
    return statements


class _Replace(ast.NodeTransformer):
    """Replaces marked names by the expressions of their values."""

    def __init__(self, value: Callable[[str], ast.expr]) -> None:
        self._value = value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not node.id.startswith(trees.MARK):
            return node
        return copy.deepcopy(self._value(node.id[1:]))


class _Inline(ast.NodeTransformer):
    """Replaces names of variables."""

    def __init__(self, expressions: Mapping[str, ast.expr]) -> None:
        self._expressions = expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._expressions.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def _line(item: Item, path: str) -> str:
    """Return the line of the user's code in the module at a path that led to an item."""
    node = next(nodes_of(item), None)
    calls = node.calls if node else ()
    return next((call.line for call in calls if call.path == path), "")


def _usual(item: Item, pattern: tuple[Pattern, ...]) -> list[Target]:
    """Return the usual names of the results of an operator, in the form of a pattern."""
    node = next((node for node in nodes_of(item) if _kind(node) in _SEVERAL), None)
    usual = list(_SEVERAL[_kind(node)]) if node else []
    if len(usual) != len(_names_or_none(pattern)):
        return [""] * len(pattern)
    taken = iter(usual)
    return [[next(taken) for _ in part] if isinstance(part, tuple) else next(taken) for part in pattern]


def _leaves_fit(targets: Sequence[Target], pattern: Sequence[Pattern]) -> bool:
    """Return True if each tuple of results meets a tuple of names."""
    return all(
        isinstance(target, list) and len(target) == len(part)
        for target, part in zip(targets, pattern, strict=True)
        if isinstance(part, tuple) and _names_in(part)
    )


def _kind(node: Node) -> str:
    return node.op.split(".")[1] if "." in node.op else ""


def _names_or_none(pattern: Pattern) -> list[str | None]:
    if isinstance(pattern, tuple):
        return [name for part in pattern for name in _names_or_none(part)]
    return [pattern]


def _only_name(tree: ast.expr) -> str:
    return tree.id if isinstance(tree, ast.Name) else ""


def _names_in(pattern: Pattern) -> list[str]:
    if isinstance(pattern, tuple):
        return [name for part in pattern for name in _names_in(part)]
    return [] if pattern is None else [pattern]


def _tuple(items: Sequence[ast.expr]) -> ast.expr:
    return items[0] if len(items) == 1 else ast.Tuple(list(items), ast.Load())
