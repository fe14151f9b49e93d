"""Rounds: equal runs of the items of a method, one for each module of a list, or of several lists.

Rounds become a scan whose results are lists, like a loop over time steps with dropout in it, and with modules
as its elements. Its function is the second round, whose state is the result of the first one.
"""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from jaxlstm.programs.graph import Argument, Graph, Input, Node, Tree, Value, places_of, same_sizes, values_in
from jaxlstm.programs.passes.loop_copies import Loop, LoopCopies, NotALoop
from jaxlstm_converters.source.graph.calls import SCAN, Function, Item, called_by, is_under, nodes_of
from jaxlstm_converters.source.methods.context import Context
from jaxlstm_converters.source.methods.method import LineItem
from jaxlstm_converters.source.modules.call_form import Pattern, places_in
from jaxlstm_converters.source.syntax import trees
from jaxlstm_converters.source.syntax.template import tree_of

_LIST = "@"
"""Starts the name of a list, which stands for its module of a round, among the names of Python."""


def with_rounds(
    steps: Sequence[LineItem], context: Context, inputs: Sequence[str], results: ast.expr
) -> list[LineItem]:
    """Return the items of a method with loops in the place of rounds.

    ``inputs`` has the values that the method takes, ``results`` is the expression that it returns.
    """
    found, place = list[LineItem](), 0
    for start, end, loop in _Rounds(steps, context, inputs, results).loops():
        found += [*steps[place:start], LineItem(loop, "")]
        place = end
    return [*found, *steps[place:]]


class _Form(NamedTuple):
    """An item as it would be written in a round.

    Attributes:
        text: its text without the names of values.
        values: the values and free sizes that it takes.
        results: the values that it gives, None for results that are not used.
        lists: the lists of whose module of the round it uses anything.
        arrays: the lists of values in it.
    """

    text: str
    values: Sequence[str]
    results: Sequence[str | None]
    lists: Sequence[str] = ()
    arrays: Sequence[tuple[str, ...]] = ()


class _Rounds:
    def __init__(
        self, steps: Sequence[LineItem], context: Context, inputs: Sequence[str], results: ast.expr
    ) -> None:
        self._steps, self._context, self._inputs, self._results = steps, context, inputs, results
        self._lists = _lists(context)
        self._form = cache(self._form_of)

    def loops(self) -> list[tuple[int, int, Node]]:
        """Return loops, each with the place of its first item and the place after its last one."""
        found: list[tuple[int, int, Node]] = []
        places = range(len(self._steps))
        for path, count in self._lists.items():
            first, second = ([p for p in places if path in self._form(p, k, count).lists] for k in (0, 1))
            for place in first:
                period = next((other for other in second if other > place), place) - place
                # The first round may start with items that use no module of the list.
                for start in range(place, max(place - period, -1), -1):
                    end = start + period * count
                    is_free = end <= len(places) and all(end <= a or b <= start for a, b, _ in found)
                    if is_free and (loop := self._loop(start, period, count)) is not None:
                        found.append((start, end, loop))
        return sorted(found, key=lambda run: run[0])

    def _loop(self, start: int, period: int, count: int) -> Node | None:
        """Return the loop of rounds, None if they are not equal."""
        places = [range(start + k * period, start + (k + 1) * period) for k in range(count)]
        rounds = [[self._form(place, k, count) for place in part] for k, part in enumerate(places)]
        if any(a.text != b.text for forms in rounds for a, b in zip(forms, rounds[0], strict=True)):
            return None
        after = [self._form(place, 0, count) for place in range(places[-1].stop, len(self._steps))]
        nodes = tuple(_node(form, k) for k, forms in enumerate((*rounds, after)) for form in forms)
        used, none = trees.marks(self._results), Tree("none")
        graph = Graph(inputs=(), nodes=nodes, outputs=tuple(map(Value, used)), in_tree=none, out_tree=none)
        try:
            loop = LoopCopies(graph, 0, period, count).loop()
        except NotALoop:
            return None
        lists = Counter([*_arrays(self._results), *(array for form in after for array in form.arrays)])
        single = Counter([*used, *(name for form in after for name in form.values)])
        single.subtract(name for names, number in lists.items() if number == 1 for name in names)
        results = [[name for form in forms for name in form.results] for forms in rounds]
        second = dict(zip(*results[:2], strict=True))
        outputs = [second[name] for name in (*loop.state.values(), *loop.collected)]
        same = [*zip(*results, strict=True), *((loop.initial[name], end) for name, end in loop.state.items())]
        if (
            any(not name.startswith(_LIST) for name in loop.lists)
            or any(single[name] for names in loop.collected.values() for name in names[:-1])
            or None in outputs
            or not self._has_equal_sizes([name for form in rounds[0] for name in form.values], same)
        ):
            return None
        return self._scan(loop, [self._steps[place].item for place in places[1]], outputs)

    def _scan(self, loop: Loop, body: Sequence[Item], outputs: Sequence[Any]) -> Node:
        """Return the node of a loop, given the items and results of its second round."""
        states, types = loop.state.values(), self._context.model.types
        step = Function(
            inputs=tuple(Input(name, types.get(name)) for name in states),
            nodes=tuple(node for item in body for node in nodes_of(item)),
            outputs=tuple(map(Value, outputs)),
            in_tree=Tree("tuple", (Tree("tuple", (Tree("leaf"),) * len(states)), Tree("none")), name="step"),
            out_tree=Tree("tuple", (Tree("leaf"),) * len(outputs)),
            captured=tuple(sorted(loop.invariants)),
            body=body,
        )
        args = (step, tuple(map(Value, loop.initial.values())), ())
        modules = tuple(items[1][len(_LIST) :] for items in loop.lists.values())
        kwargs = {"steps": loop.count, "listed": True, "modules": modules}
        lasts = ((loop.last.get(end) or loop.collected.get(end, (None,))[-1]) for end in states)
        return Node("", SCAN, args, kwargs, (*lasts, *loop.collected.values()))

    def _form_of(self, place: int, number: int, count: int) -> _Form:
        """Return the form of an item in the round with a number, of lists with a count of modules."""
        lists = (path for path, length in self._lists.items() if length == count)
        modules = {f"{path}.{number}": trees.name(f"{_LIST}{path}") for path in lists}
        context = replace(self._context, modules={**self._context.modules, **modules})
        form = _form(self._steps[place].item, context)
        return form._replace(text=f"{self._steps[place].line}: {form.text}")

    def _has_equal_sizes(self, used: Sequence[str], equal: Sequence[Sequence[str | None]]) -> bool:
        """Return True if the rounds use no sizes, or sizes of the inputs beside values of equal shapes."""
        sizes, types = self._context.model.sizes, self._context.model.types
        known = {size for name in self._inputs for size in (name, *sizes.symbols_of(name))}
        shapes = [[types.get(name or "") for name in names] for names in equal]
        is_same = (a == b or (a and b and same_sizes(a, b)) for a, *others in shapes for b in others)
        wanted = [*filter(sizes.is_size, used)]
        return not wanted or (known.issuperset(wanted) and all(is_same))


def _form(item: Item, context: Context) -> _Form:
    """Return the form of an item, in which modules of lists have the names that the context gives them."""
    called = None if (functions := called_by(item)) else context.called(item)
    if called is None:
        inner = (_form(part, context) for part in getattr(item, "body", ()))
        forms = [*inner, *(_forms_in(item, functions, context) if isinstance(item, Node) else ())]
        texts, *parts = zip(*forms, strict=True)
        return _Form("\n".join(texts), *([*itertools.chain(*part)] for part in parts))
    sizes = context.model.sizes

    def known(tree: ast.AST) -> ast.AST | None:
        """Return the expression of a size, or of a tensor of a module of a list."""
        name = trees.mark_of(tree)
        if name is not None and sizes.is_size(name):
            return sizes.expression(name, trees.marked, lambda _: False)
        tensor = context.tensor(name) if name is not None else None
        return tensor if tensor and _lists_in(tensor) else None

    def hidden(tree: ast.AST) -> ast.AST | None:
        return None if trees.mark_of(tree) is None else trees.name("_")

    tree = trees.replaced(called.expression, known)
    values, lists, arrays = trees.marks(tree), _lists_in(tree), [*_arrays(tree)]
    text = trees.shown(trees.replaced(tree, hidden))
    text = f"{_without_names(called.results)} = {text}"
    return _Form(text, values, places_in(called.results), lists, arrays)


def _forms_in(node: Node, functions: Sequence[Function], context: Context) -> Iterator[_Form]:
    """Yield the forms of the parts of a node that calls functions."""
    operands = tuple(argument for argument in node.args if not isinstance(argument, Graph))
    yield _Form(f"{node.op} {_text(operands)} {node.kwargs}", [*values_in(operands)], places_of(node))
    for function in functions:
        yield _Form(repr(function.in_tree), [], [declared.name for declared in function.inputs])
        yield from (_form(item, context) for item in function.body)
        yield _Form(_text(function.outputs), [*values_in(function.outputs)], [])


def _text(argument: Argument) -> str:
    """Return the text of an argument without the names of values."""
    return trees.shown(tree_of(argument, lambda _: trees.name("_")))


def _without_names(pattern: Pattern) -> Pattern:
    return tuple(map(_without_names, pattern)) if isinstance(pattern, tuple) else None


def _lists_in(tree: ast.AST) -> list[str]:
    return [name[1:] for name in trees.variables(tree) if name.startswith(_LIST)]


def _arrays(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield the values of each list in an expression of marked values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List) and all(isinstance(item, ast.Name) for item in node.elts):
            yield tuple(trees.marks(node))


def _node(form: _Form, number: int) -> Node:
    """Return a form in the round with a number as a node, which takes the modules of the round as values."""
    modules = (f"{_LIST}{path}.{number}" for path in form.lists)
    return Node("", form.text, tuple(map(Value, (*form.values, *modules))), {}, tuple(form.results))


def _lists(context: Context) -> dict[str, int]:
    """Return the lists of modules and their lengths, which are equal in all modules of a list around them."""
    root, found = context.parts, dict[str, int]()
    for part in root.at(context.path).walk():
        twins = [
            root.find(other.path + part.path[len(path) :])
            for path in context.modules
            if is_under(part.path, path)
            for other in root.at(path.rpartition(".")[0]).parts.values()
        ]
        is_own = part.is_whole_list and part.path != context.path and not part.is_chain
        if is_own and {len(twin.parts) for twin in twins} <= {len(part.parts)}:
            found[part.path] = len(part.parts)
    return found
