"""The conditions on input sizes that ``torch.export`` recorded while it chose branches of the model.

A guard is text such as ``L['x'].size()[0] % 2 == 0``. A graph holds the branch that the example took, so that
inputs which break a guard would give wrong numbers. Guards are arithmetic on sizes: this module walks the
syntax tree of the text and knows no other constructs. Nothing is executed.
"""

import ast
import itertools
import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.export

from jaxlstm.programs.errors import ProgramError

LONGEST = 10_000
_LONGEST_NARROWING = 500
UNBOUNDED = 1 << 40
"""Larger than any size."""
POWER_BITS = 256
"""Largest number of bits of a power of integers."""

_BINARY: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# The functions of one argument that torch's PythonPrinter writes, other than trigonometric ones.
_FUNCTIONS: dict[str, Any] = {
    "abs": abs,
    "round": round,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "math.trunc": math.trunc,
    "torch.sym_float": float,
    "torch._sym_sqrt": math.sqrt,
}


def equal(first: Any, second: Any) -> bool:
    """Return whether two sizes are equal. JAX takes an undecided ``==`` of symbolic sizes as false.

    Raises:
      UNDECIDED: they are equal for some sizes of the free axes only.
    """
    if first == second or not any(map(jax.export.is_symbolic_dim, (first, second))):
        return bool(first == second)
    return not (first > second or first < second)


_COMPARE: dict[type, Any] = {
    ast.Eq: equal,
    ast.NotEq: lambda first, second: not equal(first, second),
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_INPUT = re.compile(r"L((?:\[(?:'\w+'|\d+)\])+)")
_MIRRORED: dict[type, type] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


UNDECIDED: type[Exception]
if hasattr(jax.errors, "InconclusiveDimensionOperation"):
    UNDECIDED = jax.errors.InconclusiveDimensionOperation
else:  # Older releases of JAX.
    import jax.extend.core

    UNDECIDED = jax.extend.core.InconclusiveDimensionOperation  # type: ignore[attr-defined]
"""JAX's error for a comparison that depends on the sizes of the free axes of an artifact."""

UNDECIDED_GUARD = (
    "does not hold for all sizes of the free axes (a range of an axis may decide it, such as "
    "torch.export.Dim('time', min=4))"
)


class _UnknownError(Exception):
    """A guard with a construct that this module does not know."""


def require_guards(
    guards: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Any],
    lines: Mapping[str, str] | None = None,
) -> None:
    """Raise unless every guard holds.

    Args:
      guards: the conditions.
      shapes: name of an input -> shape.
      constants: name of an input that is not a tensor -> value.
      lines: guard -> line of the model's code.
    """
    for guard in guards:
        try:
            condition = _parse(guard)
            if _is_between_tensors(condition):
                continue
            holds = _evaluate(condition, {**shapes, **constants})
        except (_UnknownError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            problem = "cannot be checked"
        except UNDECIDED:
            problem = UNDECIDED_GUARD
        else:
            if holds:
                continue
            is_symbolic = any(map(jax.export.is_symbolic_dim, itertools.chain(*shapes.values())))
            problem = UNDECIDED_GUARD if is_symbolic else "does not hold for these inputs"
        raise ProgramError(
            "guard",
            f"the export chose a branch of the model by a condition that {problem}: "
            f"{shown_guard(guard, lines or {})}. Export with an example of these sizes, or skip all such "
            "conditions with program.with_options(guards=False)",
        )


def shown_guard(guard: str, lines: Mapping[str, str]) -> str:
    """Return a guard for a message: ``x.shape[0] > 1`` (the line of the model's code, if it is known)."""
    line = lines.get(guard, "")
    loop = "; a loop in Python is unrolled, torch._higher_order_ops.scan leaves the axis free"
    is_loop = re.match(r"\S+: (for|while) ", line)
    text = _INPUT.sub(lambda m: _joined(re.findall(r"\w+", m[1])), guard).replace(".size()[", ".shape[")
    return f"{text[:200]!r}" + (f" ({line}{loop if is_loop else ''})" if line else "")


def sizes_allowed(
    guard: str, examples: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> tuple[str, int, range] | None:
    """Return the sizes that a comparison about one axis of one input allows: (input, axis, sizes).

    Sizes without a gap are left by ``!=`` too: those on the side of the size in ``examples``, shapes of the
    inputs. Without an example, they are the larger ones if the others are not more than size 0.

    The sizes end at `UNBOUNDED` if the comparison allows all large ones. None if the guard does not bound the
    axis, or is not such a comparison, or long, or may not be monotonic, such as ``n % 2 == 0``.
    """
    if len(guard) > _LONGEST_NARROWING:
        return None
    try:
        condition = _parse(guard)
        nodes = list(ast.walk(condition))
        axes = [axis for node in nodes if isinstance(node, ast.expr) and (axis := axis_of(node))]
        match condition:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if (
                len(axes) == 1 and _is_monotonic(left) and _is_monotonic(right)
            ):
                ((name, place),) = axes
            case _:
                return None

        def difference(size: int) -> Any:
            inputs = {name: {place: size}}
            return _evaluate(left, inputs) - _evaluate(right, inputs)

        lowest = int(any(map(_divides_by_axis, nodes)))  # No model divides by 0.
        sign = 1 if difference(lowest) <= difference(UNBOUNDED) else -1
        zero, above = (
            find(range(UNBOUNDED), 0, lowest, key=lambda n: sign * difference(n))
            for find in (bisect_left, bisect_right)
        )
        bounds: dict[type, tuple[int, int]] = {
            ast.Eq: (zero, above),
            ast.GtE: (zero, UNBOUNDED),
            ast.Gt: (above, UNBOUNDED),
            ast.LtE: (0, above),
            ast.Lt: (0, zero),
            ast.NotEq: _side(zero, above, dict(enumerate(examples.get(name, ()))).get(place)),
        }
        first, last = bounds[_MIRRORED.get(type(op), type(op)) if sign < 0 else type(op)]
    except (_UnknownError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
        return None
    return (name, place, range(first, last)) if first or last < UNBOUNDED else None


def _side(zero: int, above: int, example: int | None) -> tuple[int, int]:
    """Return the start and the end of the sizes on one side of those from ``zero`` to ``above``."""
    if example is None:
        return (above if zero < above and zero <= 1 else 0), UNBOUNDED
    return (0, zero) if example < zero < above else (above if zero < above else 0, UNBOUNDED)


def _is_monotonic(node: ast.expr) -> bool:
    """Return True if an expression surely is monotonic in the only axis in it."""
    match node:
        case ast.Constant():
            return True
        case ast.BinOp(left=left, op=ast.Div() | ast.FloorDiv(), right=right):
            return _is_monotonic(left) and (isinstance(right, ast.Constant) or _divides_by_axis(node))
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            return _is_monotonic(left) and _is_monotonic(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_monotonic(operand)
        case ast.Call(func=func, args=args):
            return ast.unparse(func) != "abs" and all(map(_is_monotonic, args))
    return axis_of(node) is not None


def _divides_by_axis(node: ast.AST) -> bool:
    """Return True for ``10 // L['x'].size()[1]``."""
    match node:
        case ast.BinOp(op=ast.Div() | ast.FloorDiv(), right=right):
            return axis_of(right) is not None
    return False


def axes_in(guard: str) -> set[tuple[str, int]]:
    """Return the axes of inputs that a guard is about; none for one with an unknown construct."""
    try:
        nodes = ast.walk(_parse(guard))
        return {axis for node in nodes if isinstance(node, ast.expr) and (axis := axis_of(node))}
    except _UnknownError:
        return set()


def axis_of(node: ast.expr) -> tuple[str, int] | None:
    """Return the input and the axis of ``L['x'].size()[1]``, or None for other expressions."""
    match node:
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=source, attr="size"), args=[], keywords=[]),
            slice=ast.Constant(value=int() as place),
        ):
            return _name(source), place
    return None


def _parse(guard: str) -> ast.expr:
    if len(guard) > LONGEST:
        raise _UnknownError
    try:
        return ast.parse(guard, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _UnknownError from None


def _is_between_tensors(condition: ast.expr) -> bool:
    """Return True for ``4 != L['x'].size()[0]``: torch compared two tensors, and the number is on the left.

    Conditions of the model's own code have it on the right. The types of the nodes cover this case.
    """
    return (
        isinstance(condition, ast.Compare)
        and [type(op) for op in condition.ops] == [ast.NotEq]
        and isinstance(condition.left, ast.Constant)
    )


def _evaluate(node: ast.expr, inputs: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() | bool() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_evaluate(left, inputs), _evaluate(right, inputs))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_evaluate(left, inputs), _evaluate(right, inputs))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, inputs)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return equal(_evaluate(operand, inputs), 0)
        case ast.BoolOp(op=op, values=values):
            decides, undecided = isinstance(op, ast.Or), None
            for value in values:
                try:
                    if (not equal(_evaluate(value, inputs), 0)) == decides:
                        return decides
                except UNDECIDED as error:
                    undecided = error
            if undecided is not None:
                raise undecided
            return not decides
        case ast.Compare(
            left=ast.BinOp(left=left, op=ast.Mult(), right=right),
            ops=[ast.NotEq()],
            comparators=[ast.Constant(value=0)],
        ):  # JAX multiplies symbolic sizes out, and loses their bounds.
            return all(
                _evaluate(ast.Compare(factor, node.ops, node.comparators), inputs) for factor in (left, right)
            )
        case ast.Compare(left=left, ops=ops, comparators=rights):
            values = [_evaluate(value, inputs) for value in (left, *rights)]
            pairs = zip(ops, values[:-1], values[1:], strict=True)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
        case ast.Call(func=ast.Name(id="max" | "min" as name), args=args, keywords=[]):
            return (max if name == "max" else min)(_evaluate(arg, inputs) for arg in args)
        case ast.Call(func=func, args=[arg], keywords=[]) if (name := ast.unparse(func)) in _FUNCTIONS:
            return _FUNCTIONS[name](_evaluate(arg, inputs))
        case ast.Subscript():
            if axis := axis_of(node):
                name, place = axis
                return _of_input(inputs, name)[place]
            return _of_input(inputs, _name(node))
    raise _UnknownError


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and abs(base).bit_length() * max(abs(exponent), 1) > POWER_BITS:
        raise _UnknownError
    return base**exponent


def _name(node: ast.expr) -> str:
    """Return the name of an input: "d_k_0" for ``L['d']['K'][0]``."""
    match node:
        case ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str() as key)):
            return _joined([key])
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as key)):
            return _joined([_name(inner), key])
    raise _UnknownError


def _joined(keys: Iterable[Any]) -> str:
    """Return the name that torch gives an input, in lower case."""
    return re.sub(r"\W", "_", "_".join(map(str, keys))).lower()


def _of_input(inputs: Mapping[str, Any], name: str) -> Any:
    """Return the shape or value of an input."""
    if f"{name}_1" in inputs and name in inputs:
        # torch names the arguments X and x "x" and "x_1", in the order of the arguments.
        raise _UnknownError
    return inputs[name]


_IN_PYTHON = {name: name for name in ("max", "min", *_FUNCTIONS)}
_IN_PYTHON |= {"torch.sym_float": "float", "torch._sym_sqrt": "math.sqrt"}


def python_of(guard: str, size: Callable[[str, int | None], ast.expr]) -> ast.expr:
    """Return a guard as Python; a guard that cannot be checked, which a program refuses, is ``False``.

    ``size`` gives the expression of an axis by input and place, or of an input without axes, by its name and
    None.
    """

    def written(node: ast.AST) -> Any:
        match node:
            case ast.Subscript():
                return size(*(axis_of(node) or (_name(node), None)))
            case ast.Call(func=func, args=args, keywords=[]) if (name := ast.unparse(func)) in _IN_PYTHON:
                return ast.Call(_parse(_IN_PYTHON[name]), [written(arg) for arg in args], [])
            case ast.Constant(value=int() | float() | bool()) | ast.operator() | ast.unaryop() | ast.cmpop():
                return node
            case ast.BinOp() | ast.UnaryOp() | ast.Compare() | ast.BoolOp() | ast.boolop():
                fields = dict(ast.iter_fields(node))
                return type(node)(**{k: _each(written, part) for k, part in fields.items()})
        raise _UnknownError

    try:
        return written(_parse(guard))
    except (_UnknownError, LookupError):
        return ast.Constant(False)


def _each(function: Callable[[ast.AST], Any], part: Any) -> Any:
    return [*map(function, part)] if isinstance(part, list) else function(part)
