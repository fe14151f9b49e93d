"""The functions in a method: branches of ``lax.cond``, and steps of loops."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxlstm.programs.graph import Argument, Graph, Node, values_in
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.calls import Invocation, line_of
from jaxlstm_converters.source.method import LineItem, Statement
from jaxlstm_converters.source.names import Target
from jaxlstm_converters.source.scope import LETTERS
from jaxlstm_converters.source.signature import structure
from jaxlstm_converters.source.spelling.template import filled
from jaxlstm_converters.source.statements import StatementWriter, is_short


class MethodWriter(StatementWriter):
    """Writes the method of one call."""

    def _write(self, step: LineItem, targets: Sequence[Target], ends: bool) -> None:
        if isinstance(step.item, Invocation) and step.item.is_loop:
            _Loop(self, step.item).write(step)
        else:
            super()._write(step, targets, ends)

    def _expression(self, argument: Argument) -> ast.expr:
        return self._function(argument) if isinstance(argument, Graph) else super()._expression(argument)

    def _function(self, graph: Graph) -> ast.expr:
        """Write a function that an operator calls, and return its name."""
        inputs = tuple(declared.name for declared in graph.inputs)
        writer = self._inner(list(graph.nodes), inputs, tuple(values_in(graph.outputs)))
        for size in {leaf for name in graph.captured for leaf in self._context.model.sizes.leaves(name)}:
            self._scope.size(size)
        # Other names are of tensors that the module holds.
        shared = [name for name in graph.captured if name in self._scope.values]
        self._set_long(shared)
        writer._scope.share(self._scope, shared)
        # The call of the function may be part of a later statement.
        self._scope.functions.update(*(trees.variables(self._scope.value(name)) for name in shared))
        values = iter([writer._parameter(name, LETTERS) for name in inputs])
        arguments = graph.in_tree.children
        groups = [(child.name, [next(values) for _ in range(child.leaf_count())]) for child in arguments]
        body = writer._body()
        results = structure(graph.out_tree, map(writer._argument, graph.outputs))
        body.append(Statement(ast.Return(results)))
        body = writer._scope.finished(body)
        parameters, unpacked = _arguments(groups, writer._scope.taken() | {*_variables(body)})
        name = names.unique(graph.in_tree.name, self._scope.taken())
        self._define(name, parameters, [*unpacked, *body])
        return trees.name(name)

    def _set_long(self, values: Sequence[str]) -> None:
        """Give the values that a function uses variables, unless their expressions are short."""
        for name in values:
            if not self._context.model.sizes.is_size(name) and not is_short(self._scope.value(name)):
                self._set(name, self._scope.value(name))

    def _inner(
        self,
        body: list[Node | Invocation],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        modules: Mapping[str, ast.expr] | None = None,
    ) -> MethodWriter:
        """Return the writer of a function in this method; ``modules`` have variables in it."""
        context = replace(self._context, modules={**self._context.modules, **(modules or {})})
        return MethodWriter(replace(self._call, body=body, inputs=inputs, outputs=outputs), context)

    def _define(self, name: str, parameters: Sequence[str], body: Sequence[Statement]) -> None:
        """Write a function."""
        self._scope.functions.add(name)
        arguments = ast.arguments([], [*map(ast.arg, parameters)], None, [], [], None, [])
        lines = [statement.tree for statement in body]
        self._statements.append(Statement(ast.FunctionDef(name, arguments, lines, [], lineno=1)))


class _Step(NamedTuple):
    """A step of a loop: its writer, the variables of its states and rows, and its statements."""

    writer: MethodWriter
    states: list[ast.expr]
    rows: list[ast.expr]
    body: list[Statement]


class _Loop:
    """The writer of a loop in a method."""

    def __init__(self, method: MethodWriter, loop: Invocation) -> None:
        self._method, self._item = method, loop
        body: Any = loop.body
        enter, *self._body, leave = body
        self._enter, self._leave = enter.kwargs, leave.kwargs
        (self._states, self._rows), self._results = enter.outputs, leave.outputs
        used = {name for item in self._body for name in method._uses(item)}
        self._shared = sorted(used.intersection(loop.inputs))
        self._lists = list[ast.expr]()  # of modules
        self._modules = dict[str, ast.expr]()  # path of a module in them -> its variable

    def write(self, step: LineItem) -> None:
        """Write the function of a step and its call, or a plain loop if the step changes in training."""
        method, scope = self._method, self._method._scope
        method._set_long(self._shared)
        given: Any = method._argument((self._enter["init"], self._enter["rows"]))
        self._initial, bases = (part.elts for part in given.elts)
        self._arrays = [_rows(base, *part) for base, part in zip(bases, self._enter["slices"], strict=True)]
        for path in self._enter.get("modules", ()):
            self._lists.append(method._context.access(path.rpartition(".")[0]))
            hint = names.singular(trees.shown(self._lists[-1]).rpartition(".")[2])
            taken = {*scope.taken(), *map(_identifier, self._modules.values())}
            self._modules[path] = trees.name(names.unique(hint, taken))
        if self._enter["is_plain"]:
            scope.left.subtract(method._uses(self._item))
        # The states get the names of the results that replace them.
        before = [*map(_identifier, self._initial)]
        ends = [_identifier(tree) for tree in self._values(self._step(before).writer, "ends")]
        wanted = [end or name for end, name in zip(ends, before, strict=True)]
        loop = self._step(wanted)
        single = [_identifier(tree) or "output" for tree in self._values(loop.writer, "results")]
        plurals = [f"all_{name}" if name.endswith("s") else f"{name}s" for name in single]
        hints = [hint or name for hint, name in zip(self._leave["names"], plurals, strict=True)]
        if self._enter["is_plain"]:
            self._write_loop(loop, hints)
        else:
            self._write_scan(loop, [wanted, hints], step)

    def _write_scan(self, loop: _Step, hints: Sequence[Sequence[str]], step: LineItem) -> None:
        """Write a function, and a scan of it."""
        method = self._method
        taken = loop.writer._scope.taken() | {*_variables(loop.body)}
        parameters, unpacked = _arguments([("carry", loop.states), ("inputs", loop.rows)], taken)
        inner = {*parameters, *_variables(loop.body)}
        function = names.unique("step", method._scope.taken() | inner)
        method._define(function, parameters, [*unpacked, *loop.body])
        method._scope.left.subtract(method._uses(self._item))
        args = (trees.name(function), trees.grouped(self._initial), trees.grouped(self._arrays))
        kwargs = {} if self._arrays else {"length": ast.Constant(self._enter["count"])}
        kwargs |= {"reverse": ast.Constant(True)} if self._enter["reverse"] else {}
        call = trees.call(trees.parsed("jax.lax.scan"), *args, **kwargs)
        used: Any = [method._used(part) for part in self._results]
        pattern = tuple(part[0] if len(part) == 1 else part or None for part in used)
        targets: Any = [part[0] if len(part) == 1 else part for part in hints]
        target = method._unpacked(pattern, targets, step, call)
        method._statements.append(Statement(trees.assign(target, call)))

    def _write_loop(self, loop: _Step, hints: Sequence[str]) -> None:
        """Write a loop that appends the results of its steps to lists, or a comprehension."""
        scope, arrays = self._method._scope, [*self._arrays, *self._lists]
        *body, _ = (statement.tree for statement in loop.body)
        ends, results, kept = [self._values(loop.writer, key) for key in ("ends", "results", "kept")]
        if self._enter["reverse"]:
            arrays = [trees.parsed(f"{trees.shown(array)}[::-1]") for array in arrays]
        over = trees.call(trees.name("zip"), *arrays) if len(arrays) > 1 else trees.grouped(arrays)
        if not arrays:
            over = trees.call(trees.name("range"), ast.Constant(self._enter["count"]))
        rows = [*loop.rows, *self._modules.values()]
        target = trees.target(trees.grouped(rows) if rows else trees.name("_"))
        inner = scope.taken().union(*map(trees.variables, (*body, *arrays)))
        lists, lasts, states = list[ast.expr](), list[ast.expr](), {"", *map(_identifier, loop.states)}
        for hint in hints:
            lists.append(trees.name(names.unique(hint, inner | {*map(_identifier, lists)})))
        for tree in kept:
            last = trees.name(names.unique("last", inner | states | {*map(_identifier, lasts)}))
            lasts.append(last if _identifier(tree) in states else tree)
        if (
            self._modules
            and len(results) == 1
            and not (body or ends or kept or "super" in trees.variables(results[0]))
        ):
            # Python 3.11 runs a comprehension as a function, in which super() needs arguments.
            lists = [ast.ListComp(results[0], [ast.comprehension(target, over, [], 0)])]
        else:
            before = [
                *_set_to(loop.states, self._initial),
                *_set_to(lists, [trees.parsed("[]") for _ in lists]),
            ]
            added = (
                trees.call(trees.attribute(to, "append"), value)
                for to, value in zip(lists, results, strict=True)
            )
            body += [*map(ast.Expr, added), *_set_to([*loop.states, *lasts], [*ends, *kept])]
            tree = ast.For(target, over, body, [], lineno=1)
            line = line_of(self._body[0], self._method._call.path)
            self._method._statements += [*map(Statement, before), Statement(tree, line)]
        stacked = [
            trees.parsed(f"{_identifier(name)}[::-1]") if self._enter["reverse"] else name for name in lists
        ]
        for part, expressions in zip(self._results, (loop.states, stacked, lasts), strict=False):
            for given, expression in zip(part, expressions, strict=True):
                scope.values.update(dict.fromkeys([given] if isinstance(given, str) else given, expression))
                self._method._arrays |= set() if isinstance(given, str) else {given}

    def _step(self, wanted: Sequence[str]) -> _Step:
        """Return a step, whose states have the wanted names if they are free."""
        outer = self._method._scope
        outputs = tuple(values_in(tuple(self._leave.get(key) for key in ("ends", "results", "kept"))))
        writer = self._method._inner(self._body, self._item.inputs, outputs, self._modules)
        for size in filter(self._method._context.model.sizes.is_size, self._item.inputs):
            outer.size(size)
        writer._scope.share(outer, self._shared)
        if self._enter["is_plain"]:
            of_modules = map(_identifier, self._modules.values())
            writer._scope.functions |= outer.taken().union(of_modules, *map(trees.variables, self._arrays))
        hints = zip(self._states, wanted, strict=True)
        states = [writer._parameter(name, [hint, *LETTERS]) for name, hint in hints]
        sources = [next((v for v in trees.variables(array) if v != "jnp"), "x") for array in self._arrays]
        hints = zip(self._rows, sources, strict=True)
        rows = [writer._parameter(name, [f"{source}_t", "x_t"]) for name, source in hints]
        body = writer._body()
        after = [trees.grouped(self._values(writer, key)) for key in ("ends", "results")]
        body.append(Statement(ast.Return(ast.Tuple(after, ast.Load()))))
        return _Step(writer, states, rows, writer._scope.finished(body))

    def _values(self, writer: MethodWriter, key: str) -> list[ast.expr]:
        """Return the expressions of the states or results after a step."""
        return [writer._argument(value) for value in self._leave.get(key, ())]


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


def _rows(array: ast.expr, axis: int, low: int, high: int | None, keep: bool) -> ast.expr:
    """Return the rows of an array along its first axis; ``keep`` retains the axis, with size 1."""
    template = "array" if not low and high is None else f"array[{':, ' * axis}{low or ''}:{high or ''}]"
    template += {0: "", 1: ".swapaxes(0, 1)"}.get(axis, "")
    template = f"jnp.moveaxis({template}, {axis}, 0)" if axis > 1 else template
    template = f"{template}[{':, ' * (axis + 1)}None]" if keep else template
    return filled(template, {"array": array})


def _set_to(targets: Sequence[ast.expr], values: Sequence[ast.expr]) -> list[ast.stmt]:
    """Return the assignment of several variables at once, without variables that already have their value."""
    pairs = [
        pair for pair in zip(targets, values, strict=True) if trees.shown(pair[0]) != trees.shown(pair[1])
    ]
    return [trees.assign(*(trees.grouped(part) for part in zip(*pairs, strict=True)))] if pairs else []


def _identifier(tree: ast.expr) -> str:
    return tree.id if isinstance(tree, ast.Name) else ""
