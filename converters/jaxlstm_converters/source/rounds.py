"""Rounds: equal runs of the items of a method, one for each module of a list, or of several lists.

Rounds become a loop like one over time steps, with modules as its elements. The body of the loop is the
second round, whose state is the result of the first one.
"""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from jaxlstm.programs.graph import Node, Value, functions_of, places_of, same_sizes, uses_of, with_arguments
from jaxlstm_converters.source import trees
from jaxlstm_converters.source.calls import ENTER, LEAVE, LOOP, Invocation, Item, is_under
from jaxlstm_converters.source.context import Context
from jaxlstm_converters.source.method import LineItem, Pattern, places_in

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
        found += [*steps[place:start], LineItem(loop, "", LOOP)]
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

    def loops(self) -> list[tuple[int, int, Invocation]]:
        """Return loops, each with the place of its first item and the place after its last one."""
        found: list[tuple[int, int, Invocation]] = []
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

    def _loop(self, start: int, period: int, count: int) -> Invocation | None:
        """Return the loop of rounds, None if they are not equal."""
        places = [range(start + k * period, start + (k + 1) * period) for k in range(count)]
        forms = [[self._form(place, k, count) for place in part] for k, part in enumerate(places)]
        if any(a.text != b.text for part in forms for a, b in zip(part, forms[0], strict=True)):
            return None
        values = [[name for form in part for name in form.values] for part in forms]
        results = [[name for form in part for name in form.results] for part in forms]
        roles, same = _roles(values, results), [*zip(*results, strict=True)]
        if roles is None or not self._has_equal_sizes(values[0], [*same, *roles[0].items()]):
            return None
        after = [self._form(place, 0, count) for place in range(places[-1].stop, len(self._steps))]
        uses = Counter([*trees.marks(self._results), *(name for form in after for name in form.values)])
        arrays = Counter([*_arrays(self._results), *(array for form in after for array in form.arrays)])
        (states, constant), ends, kept, collected = roles, {}, {}, {}
        for names in same:
            used = [uses[name] for name in names if name]
            if all(used) and arrays[names] == 1:
                collected[names[1]] = names
                used = [number - 1 for number in used]
            if any(used[:-1]):
                return None
            if names[0] in states:
                ends[names[0]] = names[1], names[-1]
            elif any(used):
                kept[names[1]] = names[-1]
        second, last = zip(*(ends[name] for name in states), strict=True) if states else ((), ())
        init, ends, results, lasts = (
            tuple(map(Value, n)) for n in (states.values(), second, collected, kept)
        )
        modules = tuple(dict.fromkeys(f"{path}.1" for form in forms[1] for path in form.lists))
        enter = {"init": init, "rows": (), "slices": (), "count": count, "reverse": False, "is_plain": True}
        leave = {"ends": ends, "results": results, "names": ("",) * len(results), "kept": lasts}
        body: list[Item] = [
            Node("", ENTER, (), {**enter, "modules": modules}, (tuple(states), ())),
            *(self._steps[place].item for place in places[1]),
            Node("", LEAVE, (), leave, (last, tuple(collected.values()), tuple(kept.values()))),
        ]
        return Invocation(self._context.path, LOOP, body, (*{**dict.fromkeys(states.values()), **constant},))

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
    if isinstance(item, Node) and (item.op in (ENTER, LEAVE) or functions_of(item)):
        # No other node calls the same functions.
        kwargs = with_arguments(item, lambda _: Value("")).kwargs
        return _Form(repr((item.op, item.args and item.name, kwargs)), [*uses_of(item)], places_of(item))
    if (called := context.called(item)) is None:
        texts, *parts = zip(*(_form(inner, context) for inner in getattr(item, "body", ())), strict=True)
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


def _without_names(pattern: Pattern) -> Pattern:
    return tuple(map(_without_names, pattern)) if isinstance(pattern, tuple) else None


def _lists_in(tree: ast.AST) -> list[str]:
    return [name[1:] for name in trees.variables(tree) if name.startswith(_LIST)]


def _arrays(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield the values of each list in an expression of marked values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List) and all(isinstance(item, ast.Name) for item in node.elts):
            yield tuple(trees.marks(node))


def _roles(
    values: Sequence[Sequence[str]], results: Sequence[Sequence[str | None]]
) -> tuple[dict[str, str], dict[str, None]] | None:
    """Return result of the first round -> initial state, and the constant values; None for other values."""
    homes = {name: (k, place) for k, names in enumerate(results) for place, name in enumerate(names) if name}
    states, constant = dict[str, str](), dict[str, None]()
    for names in zip(*values, strict=True):
        (first, place), *later = (homes.get(name, (-1, -1)) for name in names)
        if first < 0 and len({*names}) == 1:
            constant[names[0]] = None
        elif first < 0 and later == [(k, later[0][1]) for k in range(len(later))]:
            if states.setdefault(names[1], names[0]) != names[0]:
                return None
        elif first or later != [(k + 1, place) for k in range(len(later))]:
            return None
    return states, constant


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
