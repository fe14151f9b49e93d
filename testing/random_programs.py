"""Modules whose ``forward`` is random text, of lines that torch takes."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def one_of(chosen: random.Random, texts: str, **fields: Any) -> str:
    """Return one of the texts, which semicolons separate, with its fields."""
    return chosen.choice(texts.split(";")).strip().format(**fields)


class RandomProgram(nn.Module):
    """A module of lines on ``self`` and arguments; ``text`` is the source of the function."""

    def __init__(self, arguments: str, lines: Iterable[str] = ()) -> None:
        super().__init__()
        self.arguments, self.lines = arguments, [*lines]

    def define(self, result: str) -> None:
        """Let ``forward`` run the lines and return a result."""
        body = "\n".join([*self.lines, f"return {result}"]).replace("\n", "\n ")
        self.text, scope = f"def run(self, {self.arguments}):\n {body}", {"torch": torch}
        exec(self.text, scope)
        self.run: Any = scope["run"]

    def add(self, line: str, result: str, runs: Callable[[], object]) -> bool:
        """Add a line if torch takes it, where ``runs`` tries the function, and return whether it does."""
        self.lines.append(line)
        try:
            self.define(result)
            runs()
        except (RuntimeError, IndexError, TypeError, ValueError):
            self.lines.pop()
            return False
        return True

    def forward(self, *inputs: Tensor) -> Any:
        """Run the lines."""
        return self.run(self, *inputs)
