"""The conditions on values that ``torch.export.draft_export`` decides: recorded, and decided otherwise."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy import functions

from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.pt2.trace.model_lines import line_of_model

_MOST_CONDITIONS = 2
_EXPRESSION = re.compile(r"Runtime assertion failed for expression (.*) on node ")
_NOT_ASSERTED = functions.ToFloat, functions.TruncToInt, functions.CeilToInt


class Truths(NamedTuple):
    """The truths of the conditions on values, such as ``(x > 0).all()``, that a module read, in order.

    Attributes:
        values: the truths.
        given: the number of leading truths that the caller of the export gave.
    """

    values: tuple[bool, ...]
    given: int = 0

    def others(self) -> list[tuple[bool, ...]]:
        """Return the first truths of each other branch; none if a path has many conditions, as in a loop."""
        places = range(self.given, len(self.values)) if len(self.values) <= _MOST_CONDITIONS else ()
        return [(*self.values[:place], not self.values[place]) for place in places]


class _OtherTruthError(Exception):
    """A condition has another truth than with the values of the example."""

    def __init__(self, condition: Any, truth: bool) -> None:
        self.condition, self.truth = condition, truth


def _is_bound_of_float(expression: Any, value: Any) -> bool:
    """Return True for ``x >= 4`` or ``x <= 4`` of a float, which torch takes for a range and then drops."""
    if not expression.is_Relational:
        return False
    operator = (expression if value else ~expression).rel_op
    return operator in (">=", "<=") and not all(symbol.is_integer for symbol in expression.free_symbols)


def _is_truth_of_tensor(env: Any, condition: Any) -> bool:
    """Return True for ``u0 == 1``, the truth of a tensor of truths."""
    if not condition.is_Relational or condition.rel_op != "==":
        return False
    if not condition.lhs.is_Symbol or condition.rhs != 1:
        return False
    values = env.var_to_range[condition.lhs]
    return values.lower >= 0 and values.upper <= 1


class DraftDecisions:
    """The decisions of one draft. ``given`` stands for the first truths that the example would have."""

    def __init__(self, given: tuple[bool, ...] = ()) -> None:
        self._given = given
        self._conditions: list[str] = []
        self._asserted: dict[str, str] = {}  # text of an asserted expression -> its message
        self._truths: dict[Any, bool] = {}  # by condition, in the order in which the module reads them
        self._has_numbers = False  # with fixed values
        self._are_of_tensors = True  # and not of numbers

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the decisions of the export in this context."""
        log, evaluate_expr = ShapeEnv._log_real_tensor_propagation, ShapeEnv.evaluate_expr
        dispatch_impl = FakeTensorMode._dispatch_impl

        def decide(env: Any, expression: Any, value: Any) -> None:
            is_truth = expression.is_Boolean or expression.is_Relational
            # torch traces the module more than once.
            is_given = is_truth and self._given
            given = self._truths.get(expression, self._next_given()) if is_given else None
            if given not in (None, bool(value)):
                raise _OtherTruthError(expression, given)
            if expression.has(*_NOT_ASSERTED) or _is_bound_of_float(expression, value):
                raise ValueError(f"torch writes no assertion that {expression} is {value}")
            if is_truth:
                self._truths[expression] = bool(value)
                self._are_of_tensors &= _is_truth_of_tensor(env, expression)
            self._has_numbers |= not is_truth
            text = f"{expression} is {value} at {line_of_model() or 'an unknown line'}"
            self._conditions.append(text)
            equal = f"Eq({expression}, {value})"
            asserted = equal if not is_truth else expression if value else ~expression
            self._asserted[str(asserted)] = f"the condition that the export fixed: {text}"
            log(env, expression, value)

        def evaluate(env: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return evaluate_expr(env, *args, **kwargs)
            except _OtherTruthError as other:
                env.set_real_tensor_prop_unbacked_vals(other.condition, other.truth)
                return evaluate_expr(env, *args, **kwargs)

        def dispatch(mode: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
            if func is not torch.ops.aten._assert_scalar.default or not self._given:
                return dispatch_impl(mode, func, *args, **kwargs)
            # The values of the example do not have the given truths.
            with mock.patch.object(mode, "propagate_real_tensors", False):
                return dispatch_impl(mode, func, *args, **kwargs)

        with (
            replaced(ShapeEnv, "_log_real_tensor_propagation", decide),
            replaced(ShapeEnv, "evaluate_expr", evaluate),
            replaced(FakeTensorMode, "_dispatch_impl", dispatch),
        ):
            yield

    def _next_given(self) -> bool | None:
        return dict(enumerate(self._given)).get(len(self._truths))

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
        return tuple(dict.fromkeys(self._conditions))

    def truths(self) -> Truths | None:
        """Return the truths; None if the export fixed numbers, or many conditions on them, as in a loop."""
        is_loop = len(self._truths) > _MOST_CONDITIONS and not self._are_of_tensors
        return None if self._has_numbers or is_loop else Truths((*self._truths.values(),), len(self._given))
