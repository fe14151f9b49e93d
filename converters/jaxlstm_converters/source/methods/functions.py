"""The functions in a method: branches of ``lax.cond``, and steps of loops."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxlstm.programs.graph import Argument, Graph, Node, uses_of, values_in
from jaxlstm.programs.passes.loop_copies import SELECT
from jaxlstm_converters.source.graph.calls import SCAN, Function, line_of
from jaxlstm_converters.source.methods.method import LineItem, Statement
from jaxlstm_converters.source.methods.scope import LETTERS
from jaxlstm_converters.source.methods.signature import structure
from jaxlstm_converters.source.methods.statements import StatementWriter, is_short, leaves_fit
from jaxlstm_converters.source.syntax import names, trees
from jaxlstm_converters.source.syntax.names import Target
from jaxlstm_converters.source.syntax.template import filled


class _Function(NamedTuple):
    """A function in a method.

    Attributes:
        graph: the function.
        writer: the writer of its statements.
        arguments: the names of its arguments, each with the variables of its values.
        body: its statements, of which the last returns its results.
    """

    graph: Graph
    writer: MethodWriter
    arguments: list[tuple[str, list[ast.expr]]]
    body: list[Statement]


class MethodWriter(StatementWriter):
    """Writes the method of one call."""

    def _write(self, step: LineItem, targets: Sequence[Target], ends: bool) -> None:
        if isinstance(step.item, Node) and step.item.op == SCAN:
            _Scan(self, step, step.item).write(targets)
        else:
            super()._write(step, targets, ends)

    def _expression(self, argument: Argument) -> ast.expr:
        if not isinstance(argument, Graph):
            return super()._expression(argument)
        # The call of the function may be part of a later statement.
        shared = [self._scope.value(name) for name in argument.captured if name in self._scope.values]
        self._scope.functions.update(*map(trees.variables, shared))
        return self._defined(self._function(argument, in_function=True))

    def _function(
        self,
        graph: Graph,
        hints: Sequence[Sequence[str]] = (),
        taken: Collection[str] = (),
        **surroundings: Any,
    ) -> _Function:
        """Return a function that an operator calls.

        Args:
            graph: the function.
            hints: the names that its arguments get if the names are free.
            taken: variables of the method that the function may not set.
            **surroundings: fields of the method's context that differ in the function.
        """
        inputs = tuple(declared.name for declared in graph.inputs)
        assert isinstance(graph, Function)
        outputs = tuple(values_in(graph.outputs))
        call = replace(self._call, body=[*graph.body], inputs=inputs, outputs=outputs, results=outputs)
        writer = MethodWriter(call, replace(self._context, **surroundings))
        sizes = (leaf for name in graph.captured for leaf in self._context.model.sizes.leaves(name))
        for size in sorted({*sizes}):
            self._scope.size(size)
        # Other names are of tensors that the module holds.
        shared = [name for name in graph.captured if name in self._scope.values]
        self._set_long(shared)
        writer._scope.share(self._scope, shared)
        writer._scope.functions.update(taken)
        candidates = ([*hint, *LETTERS] for hint in itertools.chain(hints, itertools.repeat([])))
        values = iter([*map(writer._parameter, inputs, candidates)])
        arguments = graph.in_tree.children
        groups = [(child.name, [next(values) for _ in range(child.leaf_count())]) for child in arguments]
        statements = writer._body()
        results = structure(graph.out_tree, map(writer._argument, graph.outputs))
        statements.append(Statement(ast.Return(results)))
        return _Function(graph, writer, groups, writer._scope.finished(statements))

    def _set_long(self, values: Sequence[str]) -> None:
        """Give the values that a function uses variables, unless their expressions are short."""
        for name in values:
            if not self._context.model.sizes.is_size(name) and not is_short(self._scope.value(name)):
                self._set(name, self._scope.value(name))

    def _defined(self, function: _Function) -> ast.expr:
        """Write a function, and return its name."""
        inner = {*_variables(function.body)}
        parameters, unpacked = _arguments(function.arguments, function.writer._scope.taken() | inner)
        name = names.unique(function.graph.in_tree.name, self._scope.taken() | inner | {*parameters})
        self._scope.functions.add(name)
        arguments = ast.arguments([], [*map(ast.arg, parameters)], None, [], [], None, [])
        lines = [statement.tree for statement in (*unpacked, *function.body)]
        self._statements.append(Statement(ast.FunctionDef(name, arguments, lines, [], lineno=1)))
        return trees.name(name)


class _Scan:
    """The writer of a scan in a method: as ``jax.lax.scan``, or as a Python loop if its results are lists."""

    def __init__(self, method: MethodWriter, step: LineItem, node: Any) -> None:
        self._method, self._step, self._settings = method, step, node.kwargs
        self._function, init, rows = node.args
        method._set_long([name for name in self._function.captured if name in method._scope.values])
        given: Any = [*map(method._argument, (init, rows))]
        self._initial, self._arrays = (part.elts for part in given)
        self._states, self._results = node.outputs[: len(init)], node.outputs[len(init) :]
        self._modules = dict[str, ast.expr]()  # path of a module of a list -> its variable
        self._lists = list[ast.expr]()  # of modules
        for path in self._settings.get("modules", ()):
            self._lists.append(method._context.access(path.rpartition(".")[0]))
            hint = names.singular(trees.shown(self._lists[-1]).rpartition(".")[2])
            taken = {*method._scope.taken(), *map(_identifier, self._modules.values())}
            self._modules[path] = trees.name(names.unique(hint, taken))
        if self._settings.get("listed"):
            method._scope.left.subtract(method._uses(node))

    def write(self, targets: Sequence[Target]) -> None:
        """Write the scan; ``targets`` are the names of its results in the user's code."""
        # The states get the names of the results that replace them.
        before = [*map(_identifier, self._initial)]
        ends, _ = self._values(self._opened(before))
        wanted = [_identifier(end) or name for end, name in zip(ends, before, strict=True)]
        function = self._opened(wanted)
        single = [_identifier(tree) or "output" for tree in self._values(function)[1]]
        plurals = [f"all_{name}" if name.endswith("s") else f"{name}s" for name in single]
        hints = self._hints(plurals)
        if self._settings.get("listed"):
            self._write_loop(function, hints)
        else:
            self._write_scan(function, [wanted, hints], targets)

    def _opened(self, wanted: Sequence[str]) -> _Function:
        """Return the function of a step, whose states have the wanted names if they are free."""
        method = self._method
        sources = [next((v for v in trees.variables(array) if v != "jnp"), "x") for array in self._arrays]
        hints = [*([name] for name in wanted), *([f"{source.rstrip('_')}_t", "x_t"] for source in sources)]
        if not self._settings.get("listed"):
            return method._function(self._function, hints, in_function=True)
        variables = (*self._modules.values(), *self._arrays)
        taken = method._scope.taken().union(*map(trees.variables, variables))
        modules = {**method._context.modules, **self._modules}
        return method._function(self._function, hints, taken, modules=modules)

    def _values(self, function: _Function) -> tuple[list[ast.expr], list[ast.expr]]:
        """Return the expressions of the states and of the results after a step."""
        values = [*map(function.writer._argument, self._function.outputs)]
        return values[: len(self._states)], values[len(self._states) :]

    def _hints(self, usual: Iterable[str]) -> list[str]:
        """Return the names of all results in the lines of the user's code that use them, or usual names."""
        method, found = self._method, list[str]()
        lines = [] if self._modules else method._lines
        taken = {"torch", "F", *method._scope.parameters.values()}
        for result, name in zip(self._results, usual, strict=True):
            first = result[0] if isinstance(result, tuple) else result
            nodes = (step.item for step in lines if step.line and isinstance(step.item, Node))
            users = (node for node in nodes if first in {*uses_of(node)} and node.op != SELECT)
            line = next((line_of(node, method._call) for node in users), "")
            found.append(
                next((arg for arg in names.arguments(line) if arg not in {"", *taken, *found}), name)
            )
        return found

    def _write_scan(
        self, function: _Function, hints: Sequence[Sequence[str]], targets: Sequence[Target]
    ) -> None:
        """Write the function of a step, and the scan."""
        method, settings = self._method, self._settings
        operands = (method._defined(function), *map(trees.grouped, (self._initial, self._arrays)))
        method._scope.left.subtract(method._uses(self._step.item))
        kwargs = {} if self._arrays else {"length": ast.Constant(settings["steps"])}
        kwargs |= {"reverse": ast.Constant(True)} if settings.get("reverse") else {}
        call = trees.call(trees.parsed("jax.lax.scan"), *operands, **kwargs)
        used: Any = [method._used(part) for part in (self._states, self._results)]
        pattern = tuple(part[0] if len(part) == 1 else part or None for part in used)
        usual: Any = [part[0] if len(part) == 1 else [*part] for part in hints]
        fits = leaves_fit(targets, pattern)
        target = method._unpacked(pattern, targets if fits else usual, self._step)
        method._statements.append(Statement(trees.assign(target, call), self._step.line))
        method._statements += method._scope.read_inner_sizes(pattern)

    def _write_loop(self, function: _Function, hints: Sequence[str]) -> None:
        """Write a loop that appends the results of its steps to lists, or a comprehension."""
        method, scope = self._method, self._method._scope
        *body, _ = (statement.tree for statement in function.body)
        (_, states), (_, rows) = function.arguments
        ends, values = self._values(function)
        target, over = self._header(rows)
        results = [items[:: -1 if self._settings.get("reverse") else 1] for items in self._results]
        is_list = [any(scope.left[name] > 0 for name in items[:-1]) for items in results]
        # Python 3.11 runs a comprehension as a function, in which super() needs arguments.
        is_plain = self._modules and not body and "super" not in trees.variables(trees.grouped(values))
        if is_plain and not ends and is_list == [True]:
            made = ast.ListComp(values[0], [ast.comprehension(target, over, [], 0)])
            method._lists[results[0]] = made
            scope.values.update(dict.fromkeys(results[0], made))
            return
        taken = scope.taken().union(*map(trees.variables, (*body, over, *states)))
        lists, lasts = [], [*zip(states, ends, strict=True)]
        for items, hint, value, listed in zip(results, hints, values, is_list, strict=True):
            variable = value
            if listed or _identifier(value) in {"", *map(_identifier, states)}:
                variable = trees.name(names.unique(hint if listed else "last", taken))
                taken.add(variable.id)
            if listed:
                method._lists.update({items: variable, items[::-1]: _reversed(variable)})
            (lists if listed else lasts).append((variable, value))
            for place, name in enumerate(items):
                scope.values[name] = _row(variable, place, len(items)) if listed else variable
        scope.values.update(zip(self._states, states, strict=True))
        body += [ast.Expr(trees.call(trees.attribute(to, "append"), value)) for to, value in lists]
        loop = ast.For(target, over, [*body, *_set_to(lasts)], [], lineno=1)
        before = [*zip(states, self._initial, strict=True)], [(to, trees.parsed("[]")) for to, _ in lists]
        method._statements += [Statement(tree) for pairs in before for tree in _set_to(pairs)]
        line = line_of(self._function.body[0], method._call)
        method._statements.append(Statement(loop, line))

    def _header(self, rows: Sequence[ast.expr]) -> tuple[ast.expr, ast.expr]:
        """Return the variables of a Python loop, and the arrays and lists of modules that it goes through."""
        arrays = [_reversed(array) if self._settings.get("reverse") else array for array in self._arrays]
        arrays += self._lists
        over = trees.call(trees.name("zip"), *arrays) if len(arrays) > 1 else trees.grouped(arrays)
        if not arrays:
            over = trees.call(trees.name("range"), ast.Constant(self._settings["steps"]))
        variables = [*rows, *self._modules.values()]
        return trees.target(trees.grouped(variables) if variables else trees.name("_")), over


def _arguments(
    groups: Sequence[tuple[str, list[ast.expr]]], taken: set[str]
) -> tuple[list[str], list[Statement]]:
    """Return the arguments of a function, and the statements that unpack arguments of several values."""
    unpacked, arguments = [], list[str]()
    for name, values in groups:
        if len(values) == 1:
            arguments.append(_identifier(values[0]))
            continue
        arguments.append(names.unique(name if values else "_", taken | {*arguments}))
        if values:
            unpacked.append(Statement(trees.assign(trees.grouped(values), trees.name(arguments[-1]))))
    return arguments, unpacked


def _variables(body: Sequence[Statement]) -> list[str]:
    """Return the variables in statements."""
    return [name for statement in body for name in trees.variables(statement.tree)]


def _row(tree: ast.expr, place: int, count: int) -> ast.expr:
    """Return an item of a list that a loop makes."""
    row = trees.item(tree, place)
    row.siblings, row.is_row = count, True  # type: ignore[attr-defined]
    return row


def _reversed(tree: ast.expr) -> ast.expr:
    return filled("items[::-1]", {"items": tree})


def _set_to(pairs: Iterable[tuple[ast.expr, ast.expr]]) -> list[ast.stmt]:
    """Return the assignment of several variables at once, without variables that already have their value."""
    pairs = [pair for pair in pairs if trees.shown(pair[0]) != trees.shown(pair[1])]
    return [trees.assign(*map(trees.grouped, zip(*pairs, strict=True)))] if pairs else []


def _identifier(tree: ast.expr) -> str:
    return tree.id if isinstance(tree, ast.Name) else ""
