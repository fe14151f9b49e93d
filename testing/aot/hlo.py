"""A parser for compiled programs, ``jax.stages.Compiled.as_text()``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
COPIES = ("copy", "copy-start", "copy-done", "slice-start", "slice-done")
JOINED = 'custom_call_target="ConcatBitcast"'  # joins the parts of a copy into VMEM
GEMM = re.compile(r'custom_call_target="[^"]*(?:gemm|matmul)', re.IGNORECASE)
CALLED = r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|(%?[\w.\-]+))"

# The sources of a value: the carried elements of a loop, by index, and products, by name. A list for a tuple.
Sources = frozenset
Value = Sources | list


class Instruction(NamedTuple):
    """An instruction, from a line ``%name = type op(operands), attributes``."""

    name: str
    op: str
    operands: tuple[str, ...]
    called: tuple[str, ...]
    line: str

    @property
    def is_copy(self) -> bool:
        return self.op in COPIES or JOINED in self.line

    @property
    def is_product(self) -> bool:
        """True if the instruction itself, and not a computation that it calls, multiplies matrices."""
        return self.op in ("dot", "convolution") or bool(GEMM.search(self.line))

    @property
    def precision(self) -> str:
        """The requested precision of a product in JAX's terms, the lower one of its two operands."""
        found = re.search(r"operand_precision\W+\[?\{?([\w\", ]+)", self.line)
        names = re.findall(r"[a-z]+", found[1].lower()) if found else ["default"]
        return min(names, key=("default", "high", "highest").index)


class Computation(NamedTuple):
    name: str
    instructions: tuple[Instruction, ...]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions if i.line.startswith("ROOT "))


class Product(NamedTuple):
    """A product of matrices."""

    name: str
    precision: str
    in_loop: bool
    line: str


class Hlo:
    """A parsed program."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.computations = {c.name: c for c in _computations(text)}

    @property
    def size(self) -> int:
        """The number of scheduled instructions.

        Copies do not count, because they depend on which arrays fit in which memory. A fusion counts as one
        instruction, because the choice of fusions depends on sizes.
        """
        instructions = [i for c in self.computations.values() for i in c.instructions]
        fused = {name for i in instructions if i.op == "fusion" for name in i.called}
        unfused = [c for c in self.computations.values() if c.name not in fused]
        return sum(not i.is_copy for c in unfused for i in c.instructions)

    @cached_property
    def loops(self) -> tuple[Instruction, ...]:
        """The ``while`` instructions."""
        instructions = (i for c in self.computations.values() for i in c.instructions)
        return tuple(i for i in instructions if i.op == "while")

    @cached_property
    def in_loops(self) -> frozenset[str]:
        """The names of the computations that loops call, directly or indirectly."""
        found: set[str] = set()
        waiting = [name for loop in self.loops for name in loop.called]
        while waiting:
            name = waiting.pop()
            if name not in found and name in self.computations:
                found.add(name)
                waiting += [n for i in self.computations[name].instructions for n in i.called]
        return frozenset(found)

    def products(self) -> list[Product]:
        """Return the products outside of kernels."""
        return [
            Product(i.name, i.precision, c.name in self.in_loops, i.line)
            for c in self.computations.values()
            for i in c.instructions
            if i.is_product
        ]

    def collectives(self) -> list[tuple[str, bool]]:
        """Return the kind of each collective and whether it is in a loop."""
        return [
            (found[1], c.name in self.in_loops)
            for c in self.computations.values()
            for i in c.instructions
            if (found := re.search(COLLECTIVES, i.line))
        ]

    def hoistable(self) -> list[str]:
        """Return the products inside loops that could be one large product outside.

        The operands of such a product do not depend on its own result of an earlier step. Examples are
        x_t W_ih, which can be computed before the loop, and dz_t^T h_t, which can be computed after it.
        """
        return [name for loop in self.loops for name in self._hoistable(loop)]

    def _hoistable(self, loop: Instruction) -> list[str]:
        body = re.search(r"body=%?([\w.\-]+)", loop.line)
        assert body is not None, loop.line
        computation = self.computations[body[1]]
        root = computation.root
        assert root.op == "tuple", root.line
        carried: list = [frozenset([index]) for index in range(len(root.operands))]
        needs: dict[str, Sources] = {}
        after = self._value(computation, [carried], needs)
        return [product for product in needs if not _on_a_cycle(product, needs, after)]

    def _value(self, computation: Computation, arguments: list, needs: dict) -> Value:
        """Return the sources of a computation's result, and record the sources of products in ``needs``."""
        values: dict[str, Value] = {}
        for i in computation.instructions:
            operands = [values[name] for name in i.operands if name in values]
            if i.op == "parameter":
                number = re.search(r"parameter\((\d+)\)", i.line)
                assert number is not None, i.line
                value: Value = arguments[int(number[1])]
            elif i.op == "tuple":
                value = operands
            elif i.op == "get-tuple-element":
                index = re.search(r"index=(\d+)", i.line)
                assert index is not None, i.line
                value = operands[0]
                value = value[int(index[1])] if isinstance(value, list) else value
            elif i.op in ("fusion", "call") and len(i.called) == 1:
                value = self._value(self.computations[i.called[0]], operands, needs)
            else:
                value = _union(operands)
            if i.is_product:
                needs[i.name] = needs.get(i.name, frozenset()) | _union([value])
                value = _union([value]) | {i.name}
            values[i.name] = value
        return values[computation.root.name]


def _union(values: list) -> Sources:
    flat = [_union(v) if isinstance(v, list) else v for v in values]
    return frozenset().union(*flat)


def _on_a_cycle(product: str, needs: dict[str, Sources], after: Value) -> bool:
    assert isinstance(after, list)
    reached: frozenset = frozenset([product])
    while True:
        more = {index for index, value in enumerate(after) if _union([value]) & reached}
        if more <= reached:
            return bool(needs[product] & reached)
        reached |= more


def _computations(text: str) -> Iterator[Computation]:
    name, lines = "", []
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        if head:
            name, lines = head[1], []
        elif line == "}" or line.startswith("} "):
            yield Computation(name, tuple(lines))
        elif " = " in line and line.startswith("  "):
            lines.append(_instruction(line.strip()))


def _instruction(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    rest = _after_the_type(right)
    op = re.match(r"[\w\-]+", rest)
    assert op is not None, line
    arguments = rest[op.end() + 1 :].split("), ", 1)[0]
    groups = [several or one for several, one in re.findall(CALLED, line)]
    called = [name.strip(" %") for group in groups for name in group.split(",")]
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(left.removeprefix("ROOT ").lstrip("%"), op[0], operands, tuple(called), line)


def _after_the_type(text: str) -> str:
    """Cut ``type`` off ``type op(operands), ...``. The type of a tuple has spaces and brackets."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == " " and depth == 0:
            return text[position + 1 :]
    raise ValueError(f"not an instruction: {text}")
