"""The statements of a method: one call of a module as Python."""

import ast
import copy
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property

from jaxlstm.programs.graph import Argument, Node, Structure, Value, results_of, uses_of
from jaxlstm_converters.source.graph.calls import Invocation, Item, called_by, line_of, nodes_of
from jaxlstm_converters.source.methods.context import Context
from jaxlstm_converters.source.methods.method import LineItem, Method, Statement
from jaxlstm_converters.source.methods.operands import named_operands
from jaxlstm_converters.source.methods.rounds import with_rounds
from jaxlstm_converters.source.methods.scope import Scope, usual_names
from jaxlstm_converters.source.methods.signature import structure
from jaxlstm_converters.source.modules.call_form import Pattern, names_in
from jaxlstm_converters.source.syntax import names, trees
from jaxlstm_converters.source.syntax.names import Target
from jaxlstm_converters.source.syntax.simplify import simplified
from jaxlstm_converters.source.syntax.template import marked, tree_of

_LONGEST = 88


class StatementWriter:
    """Writes the method of one call, without the functions in it."""

    def __init__(self, call: Invocation, context: Context) -> None:
        self._call = call
        self._context = context
        self._lines = [*self._expanded(call.body)]
        results = trees.marked_parts(call.results)
        self._exported = context.model.exported.get(id(call))
        if self._exported is not None:
            graph = self._exported.graph
            leaves = (tree_of(output) for output in (*graph.outputs, *graph.mutations.values()))
            results = ast.Tuple([structure(graph.out_tree, leaves), *leaves], ast.Load())
        self._steps = with_rounds(self._lines, context, call.inputs, results)
        assigned = {name for step in self._lines for name in names.leaves(names.targets(step.line))}
        left = Counter(name for step in self._steps for name in self._uses(step.item))
        left.update(trees.leaves(call.results))
        self._scope = Scope(context, left, assigned)
        self._statements: list[Statement] = []
        self._planned: dict[str, str] = {}
        self._lists: dict[tuple[str, ...], ast.expr] = {}  # values -> the list that a loop makes of them

    def method(self) -> Method:
        """Return the method of a module that another one calls."""
        parameters, taken = list[ast.arg](), set[str]()
        for name, value in self._call.parameters:
            if isinstance(value, str):
                candidates = (c for c in (name, *self._candidates(value)) if c not in taken)
                variable = self._parameter(value, [*candidates])
            else:
                variable = trees.name(names.valid_name(name, taken | self._scope.taken(), default="state"))
                self._take_parts(value, variable)
            taken.add(trees.shown(variable))
            parameters.append(ast.arg(trees.shown(variable)))
        body = self._body()
        results = trees.replaced(trees.marked_parts(self._call.results), self._marked_value)
        body.append(Statement(ast.Return(results)))
        inputs = [parameter.value for parameter in self._call.parameters]
        return Method(parameters, self._scope.finished(body), inputs=inputs)

    def _candidates(self, name: str) -> list[str]:
        """Return names for a parameter that takes a value or size."""
        if self._context.model.sizes.is_size(name):
            return []
        if (torch_name := self._context.model.owners.get(name)) is not None:
            return [*self._argument_names(name), names.valid_name(torch_name.rpartition(".")[2])]
        # A computed weight has the name of its place in an operator.
        keys = {k for node in nodes_of(self._call) for k, v in node.kwargs.items() if v == Value(name)}
        return [*sorted(keys & {"weight", "bias"}), *self._argument_names(name), "x", "y", "z", "u", "v", "w"]

    def _take_parts(self, value: Structure, parameter: ast.expr) -> None:
        """Unpack a parameter if the names of all its values are known, or let items of it stand for them."""
        found = {leaf: name for leaf in trees.leaves(value) for name in self._argument_names(leaf)[:1]}
        taken = self._scope.taken()
        if len({*found.values()} - taken) == len([*trees.leaves(value)]):
            self._scope.values |= {leaf: trees.name(name) for leaf, name in found.items()}
            pattern = trees.replaced(trees.marked_parts(value), self._marked_value)
            self._statements.append(Statement(trees.assign(pattern, parameter)))
        else:
            self._take_items(value, parameter)

    def _take_items(self, value: Structure, expression: ast.expr) -> None:
        if isinstance(value, str):
            self._scope.values[value] = expression
        for place, part in enumerate(value if isinstance(value, tuple) else ()):
            item = trees.item(expression, place)
            item.siblings = len(value or ())  # type: ignore[attr-defined]
            self._take_items(part, item)

    def _parameter(self, name: str, candidates: Sequence[str]) -> ast.expr:
        """Give a value the first parameter or variable of some that is free."""
        taken = {*self._scope.taken(), *self._scope.parameters.values()}
        free = (c for c in candidates if names.is_name(c) and c not in taken)
        usual = "size" if self._context.model.sizes.is_size(name) else "value"
        self._scope.take(name, next(free, "") or names.unique(usual, taken))
        return self._scope.value(name)

    def outermost(self, signature: Method, bound: Mapping[str, ast.expr]) -> Method:
        """Return the method of the outermost module; ``bound`` has the expression of each input."""
        assert self._exported is not None
        graph = self._exported.graph
        for name, expression in bound.items():
            value = self._exported.prefix + name
            self._scope.values[value] = expression
            if isinstance(expression, ast.Name):
                self._scope.parameters[value] = expression.id
        body = self._body()
        listed = {Value(name) for values in self._lists for name in values}
        leaves = [tree_of(output) if output in listed else self._argument(output) for output in graph.outputs]
        returned = self._resolved(structure(graph.out_tree, iter(leaves)))
        for name, value in graph.mutations.items():
            buffer = trees.item(self._context.access(name), ...)
            body.append(Statement(trees.assign(buffer, self._argument(value))))
        signature.body = self._scope.finished([*body, Statement(ast.Return(returned))])
        return signature

    def _expanded(self, items: Sequence[Item]) -> Iterator[LineItem]:
        for item in items:
            line = line_of(item, self._call)
            if isinstance(item, Node):
                yield LineItem(item, line)
            elif self._context.called(item) is None:
                yield from self._expanded(item.body)
            else:
                parent, _, number = item.path.rpartition(".")
                yield LineItem(item, line, parent if number.isdecimal() else "")

    def _uses(self, item: Item) -> Sequence[str]:
        if isinstance(item, Node):
            return list(uses_of(item))
        called = self._context.called(item)
        return trees.marks(called.expression) if called else item.inputs

    def argument_name(self, name: str, taken: Collection[str]) -> str:
        """Return the name of an argument of the outermost module, for which torch may give ``args_0``."""
        assert self._exported is not None
        base, _, number = name.rpartition("_")
        found = self._argument_names(self._exported.prefix + name)
        if base != "args" or not number.isdecimal() or name in found:
            return name
        candidates = [*found, "x", "y", "z", "u", "v", "w"]
        return next((c for c in candidates if c not in taken), name)

    def _argument_names(self, name: str) -> list[str]:
        """Return the name of an input in the lines that use it, unless earlier lines assign it.

        A line with several names tells one of them for certain, or nothing.
        """
        line = next((step.line for step in self._inner_lines if name in self._uses(step.item)), "")
        before = itertools.takewhile(lambda step: step.line != line, self._inner_lines)
        others = {found for step in before for found in names.leaves(names.targets(step.line))}
        others |= {"F", "_VF", "functional", "torch", "nn", "s", "self"}
        named = [self._named[name]] if name in self._named else [*{*names.arguments(line)} - others]
        return named if len(named) == 1 and named[0] not in {"", *others} else []

    @cached_property
    def _inner_lines(self) -> list[LineItem]:
        """The items that lines of the user's code led to, also in functions."""
        bodies = ([item for f in called_by(step.item) for item in f.body] for step in self._lines)
        pairs = zip(self._lines, map(self._expanded, bodies), strict=True)
        return [inner for step, body in pairs for inner in (step, *body) if inner.line]

    @cached_property
    def _named(self) -> dict[str, str]:
        """Value -> its name in the first line that tells which one it is."""
        found: dict[str, str] = {}
        for line, run in itertools.groupby(self._inner_lines, lambda step: step.line):
            found = {**named_operands(line, [step.item for step in run]), **found}
        return found

    def _body(self) -> list[Statement]:
        run: list[LineItem] = []
        for place, step in enumerate(self._steps):
            after = self._steps[place + 1] if place + 1 < len(self._steps) else None
            run.append(step)
            # The next round of a loop has the same line.
            repeats = after is not None and after.list and any(other.list == after.list for other in run)
            if after is None or after.line != step.line or repeats:
                self._write_line(run)
                run = []
        return self._statements

    def _write_line(self, run: Sequence[LineItem]) -> None:
        """Write the steps of one line of the user's code."""
        targets = names.targets(run[-1].line)
        inner = [name for step in run for name in self._uses(step.item)]
        made = [name for step in run for node in nodes_of(step.item) for name in results_of(node)]
        left = [name for name in made if self._scope.left[name] > inner.count(name)]
        planned = names.leaves(targets)
        if len(run) > 1 and len(planned) == len(left) > 1:
            # Several values of one line: a, b = f(x), g(x).
            self._planned.update(zip(left, planned, strict=True))
        for place, step in enumerate(run):
            ends = place == len(run) - 1
            self._write(step, targets if ends else [], ends)

    def _write(self, step: LineItem, targets: Sequence[Target], ends: bool) -> None:
        called = self._context.called(step.item, self._placeholder)
        assert called is not None
        target = ", ".join(names.leaves(targets))
        expression, pattern = self._resolved(called.expression, target), self._used(called.results)
        if called.is_whole and len(targets) == len(called.returned):
            targets = [*map(names.completed, targets, called.returned)]
        is_known = called.is_whole and isinstance(pattern, tuple) and leaves_fit(targets, pattern)
        if called.returned and max(len(called.returned), len(targets)) > 1 and not is_known:
            targets = names.matched(names.leaves(targets), called.returned)
        self._scope.left.subtract(self._uses(step.item))
        self._assign(step, expression, pattern, targets, ends)
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
            fits = leaves_fit(targets, pattern)
            given = targets if fits else usual_names(step.item, pattern)
            tree = self._unpacked(pattern, given, step)
        self._statements.append(Statement(trees.assign(tree, expression), step.line))

    def _is_inlined(self, step: LineItem, expression: ast.expr, value: str, target: str, ends: bool) -> bool:
        if isinstance(expression, ast.Name | ast.Constant):
            return True
        if self._scope.left[value] != 1:
            return False
        return not (target and (ends or value in self._planned)) and len(trees.shown(expression)) <= _LONGEST

    def _unpacked(self, pattern: tuple[Pattern, ...], targets: Sequence[Target], step: LineItem) -> ast.expr:
        """Return the target of an assignment that unpacks a tuple."""
        items: list[ast.expr] = []
        for part, target in zip(pattern, targets, strict=True):
            if part is None or not names_in(part):
                items.append(trees.name("_"))
            elif isinstance(part, tuple):
                given = target if isinstance(target, list) and len(target) == len(part) else [""] * len(part)
                items.append(self._unpacked(part, given, step))
            else:
                wanted = (
                    names.unique(target, self._scope.taken()) if target and isinstance(target, str) else ""
                )
                items.append(self._scope.named(part, wanted, step))
        return ast.Tuple(items, ast.Load())

    def _used(self, pattern: Pattern) -> Pattern:
        """Return a pattern without the results that the rest of the method does not use."""
        if isinstance(pattern, tuple):
            return tuple(self._used(part) for part in pattern)
        return pattern if pattern is not None and self._scope.left[pattern] > 0 else None

    def _placeholder(self, argument: Argument) -> ast.expr:
        """Return an argument in which marked names stand for values."""
        return tree_of(argument, self._expression)

    def _expression(self, argument: Argument) -> ast.expr:
        if isinstance(argument, Value) and self._context.model.sizes.is_size(argument.name):
            return self._scope.value(argument.name)
        return marked(argument)

    def _argument(self, argument: Argument) -> ast.expr:
        return self._resolved(self._placeholder(argument))

    def _resolved(self, tree: ast.expr, target: str = "") -> ast.expr:
        """Return an expression with the expressions of its values; a value used twice gets a variable."""
        counts = Counter(trees.marks(tree))
        for name, count in counts.items():
            expression = self._scope.value(name)
            if count > 1 and not is_short(expression):
                self._set(name, expression)
        replaced = _with_inferred_size(trees.replaced(copy.deepcopy(tree), self._marked_value))
        longest = max(counts, key=lambda name: len(trees.shown(self._scope.value(name))), default="")
        is_long = len(trees.shown(simplified(replaced))) + len(target) > _LONGEST
        if is_long and longest and isinstance(self._scope.value(longest), ast.Call):
            # Two lines instead of the parts of one.
            self._set(longest, self._scope.value(longest))
            return self._resolved(tree, target)
        return replaced

    def _marked_value(self, node: ast.AST) -> ast.expr | None:
        """Return the expression of the value for which a name stands, or of a list that a loop makes."""
        values = tuple(trees.marks(node)) if isinstance(node, ast.List) else ()
        if values in self._lists:
            return copy.deepcopy(self._lists[values])
        name = trees.mark_of(node)
        return None if name is None else copy.deepcopy(self._scope.value(name))

    def _set(self, name: str, expression: ast.expr) -> None:
        """Write a statement that gives a value a variable."""
        variable = self._scope.named(name, "", LineItem(self._call, ""), expression)
        self._statements.append(Statement(trees.assign(variable, expression)))


def _with_inferred_size(tree: ast.expr) -> ast.expr:
    """Return a call of reshape with -1 for the size with the longest expression."""
    match tree:
        case ast.Call(ast.Attribute(_, "reshape"), sizes):
            computed = [size for size in sizes if isinstance(size, ast.BinOp)]
            if computed and all(isinstance(size, ast.Constant | ast.Name | ast.BinOp) for size in sizes):
                longest = max(computed, key=lambda size: len(trees.shown(size)))
                tree.args = [trees.parsed("-1") if size is longest else size for size in sizes]
    return tree


def leaves_fit(targets: Sequence[Target], pattern: Sequence[Pattern]) -> bool:
    """Return True if there is a name for each result, and each tuple of results meets a tuple of names."""
    return len(targets) == len(pattern) and all(
        isinstance(target, list) and len(target) == len(part)
        for target, part in zip(targets, pattern, strict=True)
        if isinstance(part, tuple) and names_in(part)
    )


def is_short(tree: ast.expr) -> bool:
    """Return True for an expression that needs no variable although it is used several times."""
    return isinstance(tree, ast.Name | ast.Constant | ast.Attribute | ast.Subscript)
