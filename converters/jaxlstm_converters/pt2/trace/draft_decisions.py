"""The conditions on values that ``torch.export.draft_export`` decides: recorded, and decided otherwise."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy import functions

from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.pt2.trace.model_lines import line_of_model

_MOST_CONDITIONS = 2
_EXPRESSION = re.compile(r"Runtime assertion failed for expression (.*) on node ")
_NOT_ASSERTED = functions.ToFloat, functions.TruncToInt, functions.CeilToInt


class Truths(NamedTuple):
    """The truths of tensors, as of ``(x > 0).all()``, that a module read, in order.

    Attributes:
        values: the truths.
        decided: the places in `values` of truths that decided a condition.
        given: the number of leading truths that the caller of the export gave.
    """

    values: tuple[bool, ...]
    decided: tuple[int, ...]
    given: int = 0

    def others(self) -> list[tuple[bool, ...]]:
        """Return the first truths of each other branch; none if a path has many conditions, as in a loop."""
        places = self.decided if len(self.decided) <= _MOST_CONDITIONS else ()
        new = (place for place in places if place >= self.given)
        return [(*self.values[:place], not self.values[place]) for place in new]


def _is_bound_of_float(expression: Any, value: Any) -> bool:
    """Return True for ``x >= 4`` or ``x <= 4`` of a float, which torch takes for a range and then drops."""
    if not expression.is_Relational:
        return False
    operator = (expression if value else ~expression).rel_op
    return operator in (">=", "<=") and not all(symbol.is_integer for symbol in expression.free_symbols)


class DraftDecisions:
    """The decisions of one draft. ``given`` stands for the first truths that the example would have."""

    def __init__(self, given: tuple[bool, ...] = ()) -> None:
        self._given = given
        self._symbols: dict[str, set[Any]] = {}  # by the text of a condition
        self._asserted: dict[str, str] = {}  # text of an asserted expression -> its message
        self._truths: dict[Any, bool] = {}  # by symbol, in the order in which the module reads them

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the decisions of the export in this context."""
        log, set_value = ShapeEnv._log_real_tensor_propagation, ShapeEnv.set_real_tensor_prop_unbacked_vals

        def decide(env: Any, expression: Any, value: Any) -> None:
            if expression.has(*_NOT_ASSERTED) or _is_bound_of_float(expression, value):
                raise ValueError(f"torch writes no assertion that {expression} is {value}")
            text = f"{expression} is {value} at {line_of_model() or 'an unknown line'}"
            self._symbols[text] = expression.free_symbols
            is_truth = expression.is_Boolean or expression.is_Relational
            equal = f"Eq({expression}, {value})"
            asserted = equal if not is_truth else expression if value else ~expression
            self._asserted[str(asserted)] = f"the condition that the export fixed: {text}"
            log(env, expression, value)

        def read(env: Any, key: Any, value: Any) -> None:
            symbol = key if key.is_Symbol else key.lhs  # of u0 == 1
            interval = env.var_to_range[symbol]
            if interval.lower >= 0 and interval.upper <= 1:
                truth = self._truth(symbol, bool(value))
                value = int(truth) if key.is_Symbol else truth
            set_value(env, key, value)

        with (
            replaced(ShapeEnv, "_log_real_tensor_propagation", decide),
            replaced(ShapeEnv, "set_real_tensor_prop_unbacked_vals", read),
        ):
            yield

    def _truth(self, symbol: Any, of_example: bool) -> bool:
        place = [*self._truths].index(symbol) if symbol in self._truths else len(self._truths)
        self._truths[symbol] = self._given[place] if place < len(self._given) else of_example
        return self._truths[symbol]

    def name_lines(self, program: torch.export.ExportedProgram) -> None:
        """Let the assertions of the recorded conditions have messages with lines of the model's code."""
        for node in program.graph.nodes:
            message = node.args[1] if node.target is torch.ops.aten._assert_scalar.default else ""
            expression = _EXPRESSION.match(message)
            if expression is not None and (named := self._asserted.get(expression[1])):
                node.args = (node.args[0], named)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions, each with its value and the line of the model's code."""
        return tuple(self._symbols)

    def truths(self) -> Truths | None:
        """Return the truths, or None if another value decided a condition."""
        symbols = set[Any]().union(*self._symbols.values())
        if not symbols <= self._truths.keys():
            return None
        places = tuple(place for place, symbol in enumerate(self._truths) if symbol in symbols)
        return Truths((*self._truths.values(),), places, len(self._given))
