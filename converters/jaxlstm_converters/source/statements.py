"""The statements of a method: one call of a module as Python."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from jaxlstm.programs.graph import Argument, Graph, Node, Value, results_of, uses_of, values_in
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.calls import Invocation, Item, nodes_of
from jaxlstm_converters.source.method import Context, LineItem, Method, Pattern, Statement, marked, names_in
from jaxlstm_converters.source.names import Target
from jaxlstm_converters.source.scope import LETTERS, Scope, usual_names
from jaxlstm_converters.source.spelling import simplified
from jaxlstm_converters.source.spelling.template import tree_of

_LONGEST = 88


class MethodWriter:
    """Writes the method of one call."""

    def __init__(self, call: Invocation, context: Context) -> None:
        self._call = call
        self._context = context
        self._steps = list(self._expanded(call))
        assigned = {name for step in self._steps for name in names.leaves(names.targets(step.line))}
        self._scope = Scope(context, call.path, self._count_uses(), assigned)
        self._statements: list[Statement] = []
        self._planned: dict[str, str] = {}

    def method(self) -> Method:
        """Return the method of a module that another one calls."""
        for name in self._call.inputs:
            line = self._first_use(name)
            candidates = [*self._argument_names(line), "x", "y", "z", "u", "v", "w"]
            if (torch_name := self._context.owners.get(name)) is not None:
                candidates = [names.valid_name(torch_name.rpartition(".")[2])]
            variable = next((c for c in candidates if c not in self._scope.parameters.values()), "")
            self._scope.take(name, variable or names.unique("x", set(self._scope.parameters.values())))
        body = self._body()
        body += self._result(_tuple([self._scope.value(name) for name in self._call.outputs]))
        return Method([ast.arg(name) for name in self._scope.parameters.values()], self._scope.finished(body))

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
            self._scope.values[name] = expression
            if isinstance(expression, ast.Name):
                self._scope.parameters[name] = expression.id
        body = self._body()
        returned = result(self._argument)
        body += [Statement(trees.assign(buffer, self._argument(value))) for buffer, value in changed]
        body += self._result(returned)
        return Method(signature.parameters, self._scope.finished(body), signature.keywords)

    def _result(self, value: ast.expr) -> list[Statement]:
        """Return the statements that return a value, which gets a variable: it may end a loop."""
        variables = [name for name in trees.variables(value) if name in self._scope.parameters.values()]
        if isinstance(value, ast.BinOp) and (variables := variables or trees.variables(value)):
            variable = trees.name(variables[0])
            return [Statement(trees.assign(variable, value)), Statement(ast.Return(variable))]
        return [Statement(ast.Return(value))]

    def _expanded(self, call: Invocation) -> Iterator[LineItem]:
        for item in call.body:
            line = _line(item, self._call.path)
            if isinstance(item, Node):
                yield LineItem(item, line, item.op)
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

    def _argument_names(self, line: str) -> list[str]:
        """Return the first name in a line for an input that no other input has."""
        taken = {*self._scope.parameters.values(), "F", "torch", "nn", "s"}
        return [name for name in names.arguments(line) if name not in taken][:1]

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
        left = [name for name in made if self._scope.left.get(name, 0) > inner.count(name)]
        planned = names.leaves(targets)
        if len(run) > 1 and len(planned) == len(left) > 1:
            # Several values of one line: a, b = f(x), g(x).
            self._planned.update(zip(left, planned, strict=True))
        for place, step in enumerate(run):
            ends = place == len(run) - 1
            self._write(step, targets if ends else [], ends)

    def _write(self, step: LineItem, targets: Sequence[Target], ends: bool) -> None:
        item, target = step.item, ", ".join(names.leaves(targets))
        if isinstance(item, Node) and item.op == "higher_order.cond":
            expression = self._resolved(self._conditional(item))
            pattern = self._result_pattern(item)
        elif isinstance(item, Node):
            spelling = self._context.spell(item, self._call.path, self._placeholder)
            expression = self._resolved(spelling.expr, target)
            pattern = self._result_pattern(item)
        else:
            called = self._context.call(item, self._call.path)
            assert called is not None
            expression, pattern = self._resolved(called.expression, target), self._used(called.results)
        for name in self._uses(item):
            self._scope.left[name] -= 1
        self._assign(step, expression, pattern, targets, ends)
        self._scope.end(step)
        self._statements += self._scope.read_inner_sizes(pattern)

    def _assign(
        self, step: LineItem, expression: ast.expr, pattern: Pattern, targets: Sequence[Target], ends: bool
    ) -> None:
        if not names_in(pattern):
            return
        if isinstance(pattern, str):
            target = targets[0] if len(targets) == 1 and isinstance(targets[0], str) else ""
            target = self._planned.get(pattern, target)
            if self._is_inlined(step, expression, pattern, target, ends):
                self._scope.values[pattern] = expression
                return
            tree = self._scope.named(pattern, target, step, expression)
        else:
            assert pattern is not None
            fits = len(targets) == len(pattern) and _leaves_fit(targets, pattern)
            given = targets if fits else usual_names(step.item, pattern)
            tree = self._unpacked(pattern, given, step, expression)
        self._statements.append(Statement(trees.assign(tree, expression), step.line))

    def _is_inlined(self, step: LineItem, expression: ast.expr, value: str, target: str, ends: bool) -> bool:
        if isinstance(expression, ast.Name | ast.Constant):
            return True
        if self._scope.left.get(value, 0) != 1 or step.forced:
            return False
        return not (target and (ends or value in self._planned)) and len(trees.shown(expression)) <= _LONGEST

    def _unpacked(
        self, pattern: tuple[Pattern, ...], targets: Sequence[Target], step: LineItem, expression: ast.expr
    ) -> ast.expr:
        """Return the target of an assignment that unpacks a tuple."""
        items: list[ast.expr] = []
        for part, target in zip(pattern, targets, strict=True):
            if part is None or not names_in(part):
                items.append(trees.name("_"))
            elif isinstance(part, tuple):
                given = target if isinstance(target, list) and len(target) == len(part) else [""] * len(part)
                items.append(self._unpacked(part, given, step, expression))
            else:
                wanted = target if isinstance(target, str) else ""
                items.append(self._scope.named(part, wanted, step, expression))
        return ast.Tuple(items, ast.Load())

    def _result_pattern(self, node: Node) -> Pattern:
        return self._used(node.outputs[0] if len(node.outputs) == 1 else node.outputs)

    def _used(self, pattern: Pattern) -> Pattern:
        """Return a pattern without the results that the rest of the method does not use."""
        if isinstance(pattern, tuple):
            return tuple(self._used(part) for part in pattern)
        return pattern if pattern is not None and self._scope.left.get(pattern, 0) > 0 else None

    def _placeholder(self, argument: Argument) -> ast.expr:
        """Return an argument in which marked names stand for values."""
        return tree_of(argument, self._expression)

    def _expression(self, argument: Argument) -> ast.expr:
        if isinstance(argument, Graph):
            return self._function(argument)
        assert isinstance(argument, Value), argument
        if self._context.sizes.is_size(argument.name):
            return self._context.sizes.expression(argument.name, self._scope.size)
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
            writer._scope.take(name, LETTERS[place % len(LETTERS)] + "_" * (place // len(LETTERS)))
        body = writer._body()
        results = ast.Tuple([writer._argument(output) for output in graph.outputs], ast.Load())
        body.append(Statement(ast.Return(results.elts[0] if single else results)))
        name = names.unique("branch", self._scope.taken())
        self._scope.functions.add(name)
        parameters = ast.arguments(
            [], [ast.arg(p) for p in writer._scope.parameters.values()], None, [], [], None, []
        )
        trees_ = [statement.tree for statement in writer._scope.finished(body)]
        self._statements.append(Statement(ast.FunctionDef(name, parameters, trees_, [], lineno=1)))
        return trees.name(name)

    def _argument(self, argument: Argument) -> ast.expr:
        return self._resolved(self._placeholder(argument))

    def _resolved(self, tree: ast.expr, target: str = "") -> ast.expr:
        """Return an expression with the expressions of its values; a value used twice gets a variable."""
        counts: dict[str, int] = {}
        for name in trees.marks(tree):
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            expression = self._scope.value(name)
            simple = isinstance(expression, ast.Name | ast.Constant | ast.Attribute | ast.Subscript)
            if count > 1 and not simple:
                self._set(name, expression)
        replaced = _with_inferred_size(_Replace(self._scope.value).visit(copy.deepcopy(tree)))
        longest = max(counts, key=lambda name: len(trees.shown(self._scope.value(name))), default="")
        is_long = len(trees.shown(simplified(replaced))) + len(target) > _LONGEST
        if is_long and longest and isinstance(self._scope.value(longest), ast.Call):
            # Two lines instead of the parts of one.
            self._set(longest, self._scope.value(longest))
            return self._resolved(tree, target)
        return replaced

    def _set(self, name: str, expression: ast.expr) -> None:
        """Write a statement that gives a value a variable."""
        variable = self._scope.named(name, "", LineItem(self._call, "", ""), expression)
        self._statements.append(Statement(trees.assign(variable, expression)))


def _with_inferred_size(tree: ast.expr) -> ast.expr:
    """Return a call of reshape with -1 for the size with the longest expression."""
    if not (
        isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr == "reshape"
    ):
        return tree
    computed = [arg for arg in tree.args if isinstance(arg, ast.BinOp)]
    if computed and all(isinstance(arg, ast.Constant | ast.Name | ast.BinOp) for arg in tree.args):
        longest = max(computed, key=lambda arg: len(trees.shown(arg)))
        tree.args = [trees.parsed("-1") if arg is longest else arg for arg in tree.args]
    return tree


class _Replace(ast.NodeTransformer):
    """Replaces marked names by the expressions of their values."""

    def __init__(self, value: Callable[[str], ast.expr]) -> None:
        self._value = value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not node.id.startswith(trees.MARK):
            return node
        return copy.deepcopy(self._value(node.id[1:]))


def _line(item: Item, path: str) -> str:
    """Return the line of the user's code in the module at a path that led to an item."""
    node = next(nodes_of(item), None)
    calls = node.calls if node else ()
    return next((call.line for call in calls if call.path == path), "")


def _leaves_fit(targets: Sequence[Target], pattern: Sequence[Pattern]) -> bool:
    """Return True if each tuple of results meets a tuple of names."""
    return all(
        isinstance(target, list) and len(target) == len(part)
        for target, part in zip(targets, pattern, strict=True)
        if isinstance(part, tuple) and names_in(part)
    )


def _tuple(items: Sequence[ast.expr]) -> ast.expr:
    return items[0] if len(items) == 1 else ast.Tuple(list(items), ast.Load())
