"""A parser for compiled programs, ``jax.stages.Compiled.as_text()``."""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
GEMM = re.compile(r'custom_call_target="[^"]*(?:gemm|matmul)', re.IGNORECASE)
CALLED = r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|(%?[\w.\-]+))"


class Instruction(NamedTuple):
    """An instruction of a computation, from a line ``%name = type op(operands), attributes``."""

    computation: str
    op: str
    called: tuple[str, ...]
    line: str

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


class Hlo:
    """A parsed program."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.instructions: list[Instruction] = []
        name = ""
        for line in text.splitlines():
            if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line):
                name = head[1]
            elif line.startswith("  ") and " = " in line:
                self.instructions.append(_instruction(name, line.strip()))

    @property
    def loops(self) -> list[Instruction]:
        """The ``while`` instructions."""
        return [i for i in self.instructions if i.op == "while"]

    @cached_property
    def _in_loops(self) -> set[str]:
        """The names of the computations that loops call, directly or indirectly."""
        found: set[str] = set()
        waiting = {name for loop in self.loops for name in loop.called}
        while waiting:
            found |= waiting
            called = {name for i in self.instructions if i.computation in waiting for name in i.called}
            waiting = called - found
        return found

    def products(self) -> list[Instruction]:
        """Return the products outside of kernels."""
        return [i for i in self.instructions if i.is_product]

    def products_in_loops(self) -> int:
        """Return the number of products that loops compute in each step."""
        return sum(i.computation in self._in_loops for i in self.products())

    def collectives(self) -> list[tuple[str, bool]]:
        """Return the kind of each collective and whether it is in a loop."""
        return [
            (found[1], i.computation in self._in_loops)
            for i in self.instructions
            if (found := re.search(COLLECTIVES, i.line))
        ]


def _instruction(computation: str, line: str) -> Instruction:
    # The first word before a bracket is the operation: in types, a colon or bracket comes before words.
    op = re.search(r" ([a-z][\w\-]*)\(", line.split(" =", 1)[1])
    assert op is not None, line
    groups = [several or one for several, one in re.findall(CALLED, line)]
    called = tuple(name.strip(" %") for group in groups for name in group.split(","))
    return Instruction(computation, op[1], called, line)
