"""From the value of a pickle to named tensors: the keys on the way, joined by dots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError, shown, sketch
from ..io.storage import Budget
from ..io.tensor import Tensor
from .values import Foreign, Global, NumpyArray, Refused

MAX_DEPTH = 200
MAX_NAME = 4000
MAX_NAMES = 10 << 20  # bytes that the names of tensors and hints may take, about
MAX_SCALARS = 8 << 20  # bytes that plain values and their names may take, about

# The last part of a parameter's name in torch's recurrent, linear and normalisation layers.
WEIGHT = re.compile(
    r"(weight|bias)(_(ih|hh|hr|ch|c)(_l\d+(_reverse)?)?)?(_raw|_orig|_g|_v|_scale|_zero_point)?"
)

QUANTIZED_RNN = "__torch__.torch.classes.rnn.CellParamsBase"

Scalar = int | float | bool | str | None
Member = tuple[str | None, Any]  # a name and what it holds; None for what has no name
Members = Callable[[Foreign], Iterable[Member] | None]
_HOLDERS = (dict, list, tuple, Foreign, Tensor, NumpyArray, Refused)


@dataclass
class Named:
    """The tensors by name, in the order of the file, and what there is to say about it."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, Scalar] = field(default_factory=dict)
    hints: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def no_members(value: Foreign) -> None:
    """Foreign objects hold nothing."""


def name_tensors(
    root: Any, *, budget: Budget, opcodes: int, members: Members, built: list[Tensor]
) -> Named:
    """Every tensor that dicts, lists, tuples and modules lead to.

    Args:
        root: what the pickle built.
        budget: what following references may visit beyond that.
        opcodes: how many opcodes built it: following references may visit twice as many
            values, not exponentially many.
        members: gives the named members of a foreign object, or None if it is inert.
        built: all tensors of the pickle; one that no name leads to is reported.

    Raises:
        CheckpointError: cycle, too-deep, node-budget, duplicate-name, unsupported-tensor,
            foreign-root or foreign-weight.
    """
    walk = _Walk(2 * opcodes, budget, members)
    if walk.children(root, "") is None and not isinstance(root, Tensor | NumpyArray | Refused):
        raise CheckpointError("foreign-root", f"the file holds {_described(root)}, not tensors")
    walk.visit_all(root)
    reached = set(map(id, walk.named.tensors.values()))
    lost = sum(id(tensor) not in reached for tensor in built)
    if lost:
        walk.named.warnings.append(
            f"{lost} tensors are held by objects of classes that are not read; they are left out"
        )
    return walk.named


class _Walk:
    def __init__(self, visits: int, budget: Budget, members: Members) -> None:
        self.named = Named()
        self._visits = visits
        self._budget = budget
        self._members = members
        self._names = MAX_NAMES
        self._spare = MAX_SCALARS  # negative: scalars are not kept

    def visit_all(self, root: Any) -> None:
        """Depth first without recursion; `path` holds the containers that are open."""
        path: list[int] = []
        stack: list[tuple[str, Iterator[Member]]] = [("", iter([("", root)]))]
        while stack:
            prefix, pending = stack[-1]
            item = next(pending, None)
            if item is None:
                stack.pop()
                if path:
                    path.pop()
                continue
            self._count()
            key, value = item
            if key is None:
                continue
            if len(prefix) + len(key) > MAX_NAME:
                if isinstance(value, _HOLDERS):
                    raise CheckpointError("too-deep", f"{shown(key)!r} has too long a name")
                continue
            name = f"{prefix}.{key}" if len(stack) > 2 else key
            inner = self._enter(name, value)
            if inner is None:
                continue
            if id(value) in path:
                raise CheckpointError("cycle", f"{shown(name)!r} leads back to itself")
            if len(path) >= MAX_DEPTH:
                raise CheckpointError("too-deep", f"{shown(name)!r} is nested too deeply")
            path.append(id(value))
            stack.append((name, inner))

    def _count(self) -> None:
        if self._visits:
            self._visits -= 1
            return
        self._budget.visits -= 1
        if self._budget.visits < 0:
            raise CheckpointError(
                "node-budget", "references lead to many more values than the file holds"
            )

    def _enter(self, name: str, value: Any) -> Iterator[Member] | None:
        """Take a leaf, or give the members of a container."""
        if value is None or type(value) in (int, float, bool, str):
            self._keep(name, value)
            return None
        if isinstance(value, NumpyArray) and value.tensor is not None:
            value = value.tensor
        if isinstance(value, Tensor):
            self._take(name, value)
        elif isinstance(value, Refused):
            raise CheckpointError(
                "unsupported-tensor",
                f"{shown(name)!r} is a {value.kind}; save it as a plain dense tensor on the CPU",
            )
        elif isinstance(value, Foreign) and value.packed_class == QUANTIZED_RNN:
            raise CheckpointError(
                "unsupported-tensor",
                f"{shown(name)!r} holds the packed weights of a quantized dynamic LSTM or GRU; "
                "convert the float model that it was made from",
            )
        members = self.children(value, name)
        foreign = members is None and isinstance(value, Foreign | Global)  # a module has members
        if foreign and WEIGHT.fullmatch(name.rpartition(".")[2]):
            raise CheckpointError(
                "foreign-weight", f"{shown(name)!r} is {_described(value)}, which is not called"
            )
        return members

    def _take(self, name: str, tensor: Tensor) -> None:
        if name in self.named.tensors:
            raise CheckpointError("duplicate-name", f"two tensors are named {shown(name)!r}")
        self._spend(len(name))
        self.named.tensors[name] = tensor
        tensor.name_it(name, self.named.warnings)

    def _spend(self, length: int) -> None:
        self._names -= 120 + length
        if self._names < 0:
            raise CheckpointError("node-budget", "the names of the tensors take too much memory")

    def _keep(self, name: str, value: Scalar) -> None:
        """A plain value is no reason to refuse a file: what is too much or ambiguous drops them all."""
        if self._spare < 0:
            return
        self._spare -= 200 + len(name) + (len(value) if isinstance(value, str) else 0)
        if self._spare < 0 or name in self.named.scalars:
            reason = "take too much memory" if self._spare < 0 else f"clash at {shown(name)!r}"
            self.named.warnings.append(f"the plain values of the file {reason}; none are kept")
            self.named.scalars.clear()
            self._spare = -1
        else:
            self.named.scalars[name] = value

    def children(self, value: Any, name: str) -> Iterator[Member] | None:
        """The named members of a container; None for a leaf."""
        if isinstance(value, dict):
            return _named_items(value)
        if isinstance(value, list | tuple):
            return ((str(index), item) for index, item in enumerate(value))
        if isinstance(value, Foreign):
            members = self._members(value)
            self._note(value, name)
            return None if members is None else iter(members)
        return None

    def _note(self, module: Foreign, name: str) -> None:
        """What an LSTM module says about itself and its parameters do not."""
        state = module.state
        if not isinstance(state, dict) or type(state.get("batch_first")) is not bool:
            return
        dropout = state.get("dropout", 0.0)
        if type(dropout) not in (int, float):
            return
        self._spend(300 + len(name))
        if not 0 <= dropout <= 1:
            self.named.warnings.append(
                f"{shown(name)!r} states a dropout of {sketch(dropout)}, which no LSTM has; what it "
                "states is left out"
            )
        else:
            self.named.hints[name and f"{name}."] = {
                "batch_first": state["batch_first"],
                "dropout": float(dropout),
            }


def _named_items(value: dict[Any, Any]) -> Iterator[Member]:
    for key, item in value.items():
        if type(key) is str:
            yield key, item
        elif type(key) is int:
            yield str(key), item
        elif isinstance(item, Tensor | NumpyArray | Refused):
            raise CheckpointError(
                "unsupported-tensor",
                f"a tensor is filed under a key of type {type(key).__name__}, not under a name",
            )
        else:
            yield None, item


def _described(value: Any) -> str:
    if isinstance(value, Foreign):
        return f"the result of {value.cls}"
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__}"
