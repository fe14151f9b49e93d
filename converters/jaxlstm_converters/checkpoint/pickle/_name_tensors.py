"""`name_tensors`: the tensors of a pickle by name, as in state_dict() where a module was saved whole.

The class of a module need not be installed: the pickle holds the module's `__dict__`, with `_parameters`,
`_buffers` and `_modules`, as a plain dictionary.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Checkpoint, Scalar
from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import Budget
from ..io.tensor import Tensor
from .machine import PickleMachine
from .values import GlobalName, NumpyArray, Placeholder, UnsupportedTensor

# A name and a value. The name is None if the value is visited but has no name.
Member = tuple[str | None, Any]


def module_members(value: Placeholder) -> Iterator[Member] | None:
    """Return parameters, persistent buffers and submodules; None if `value` is not an nn.Module."""
    state = value.state
    if not isinstance(state, dict) or "_parameters" not in state or "_modules" not in state:
        return None
    return _members(state)


def module_hints(value: Placeholder) -> dict[str, Any]:
    """Return `batch_first`, `dropout` and the class of an LSTM, as `Checkpoint.hints` describes them."""
    state = value.state
    if not isinstance(state, dict):
        return {}
    hints: dict[str, Any] = {}
    batch_first, dropout = state.get("batch_first"), state.get("dropout", 0.0)
    if type(batch_first) is bool and type(dropout) in (int, float):
        hints |= {"batch_first": batch_first, "dropout": dropout}
    if _may_be_lookalike(value.cls, state):
        hints["lookalike"] = str(value.cls)
    return hints


def has_lstm_names(parameters: Iterable[Any]) -> bool:
    """Return True if a module's own parameters have the names of an LSTM or LSTMCell of torch."""
    return any(type(name) is str and name.startswith("weight_ih") for name in parameters)


def _may_be_lookalike(cls: GlobalName, state: dict[str, Any]) -> bool:
    """Return True for a module with an LSTM's parameter names that is not known to be torch's.

    A class derived from torch.nn.LSTM is known by attributes that torch sets. One derived from LSTMCell has
    no such attributes, and counts as a lookalike.
    """
    parameters = state.get("_parameters")
    if not isinstance(parameters, dict) or cls.module.partition(".")[0] == "torch":
        return False
    is_torchs = state.get("mode") == "LSTM" and "_flat_weights_names" in state
    return has_lstm_names(parameters) and not is_torchs


def _members(state: dict[str, Any]) -> Iterator[Member]:
    non_persistent = set()
    for name in _set_items(state.get("_non_persistent_buffers_set")):
        # Without a name, so that the visit is counted.
        yield None, None
        non_persistent.add(name if type(name) is str else None)
    for group in ("_parameters", "_buffers", "_modules"):
        entries = state.get(group, {})
        if not isinstance(entries, dict) or not all(type(name) is str for name in entries):
            message = f"the {group} of a module are not a dictionary with strings as keys"
            raise CheckpointError("pickle-malformed", message)
        for name, member in entries.items():
            if group == "_buffers" and name in non_persistent:
                yield None, member
                continue
            if group != "_modules" and isinstance(member, Placeholder | GlobalName):
                message = f"{printable(name)!r} is the result of a call that the reader does not make"
                raise CheckpointError("foreign-weight", message)
            yield name, member
    # The packed weights of a quantized LSTM are a plain attribute.
    for name, member in state.items():
        is_packed = isinstance(member, Placeholder) and member.packed_class
        yield (name if is_packed and type(name) is str else None), member


def _set_items(value: Any) -> Iterator[Any]:
    """Yield the elements of a set: its items since pickle protocol 4, its argument before."""
    if isinstance(value, Placeholder):
        yield from value.items
        if value.args and type(value.args[0]) is list:
            yield from value.args[0]


MAX_DEPTH = 200
MAX_NAME = 4000
# Approximate limits in bytes: on the names of tensors and hints, and on the scalars with their names.
MAX_NAMES = 10 << 20
MAX_SCALARS = 8 << 20

# The last part of a parameter's name in torch's recurrent, linear and normalization layers.
WEIGHT = re.compile(
    r"(weight|bias)(_(ih|hh|hr|ch|c)(_l\d+(_reverse)?)?)?(_raw|_orig|_g|_v|_scale|_zero_point)?"
)

QUANTIZED_RNN = "__torch__.torch.classes.rnn.CellParamsBase"

Members = Callable[[Placeholder], Iterable[Member] | None]
_MAY_HOLD_TENSORS = (dict, list, tuple, Placeholder, Tensor, NumpyArray, UnsupportedTensor)


def name_tensors(
    checkpoint: Checkpoint, result: PickleMachine, *, budget: Budget, members: Members = module_members
) -> None:
    """Add every tensor that dicts, lists, tuples and modules lead to, with scalars and hints.

    Args:
        checkpoint: receives the tensors, scalars, hints and warnings.
        result: the pickle that ran. The visits are limited to twice the number of its opcodes,
            because following references could lead to exponentially many values. Tensors that no
            name leads to are reported.
        budget: pays for visits beyond that limit.
        members: returns the named members of a placeholder, or None if it has none.
    """
    root = result.value
    walk = _Walk(checkpoint, 2 * result.opcodes, budget, members)
    is_tensor = isinstance(root, Tensor | NumpyArray | UnsupportedTensor)
    if walk.children(root, "") is None and not is_tensor:
        message = f"the file holds {_describe(root)}; expected tensors, or dicts of them"
        raise CheckpointError("foreign-root", message)
    walk.visit_all(root)
    named_ids = set(map(id, checkpoint.values()))
    unnamed = sum(id(tensor) not in named_ids for tensor in result.tensors)
    if unnamed:
        checkpoint.warnings.append(f"{unnamed} tensors belong to objects of unknown classes and are skipped")


@dataclass
class _Walk:
    checkpoint: Checkpoint
    visits: int
    budget: Budget
    members: Members
    names_left: int = MAX_NAMES
    # Negative once the scalars have been dropped.
    scalars_left: int = MAX_SCALARS

    def visit_all(self, root: Any) -> None:
        """Visit the values depth first, without recursion."""
        # `path` holds the identities of the values that are being visited, to detect cycles.
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
            self._count_visit()
            key, value = item
            if key is None:
                continue
            if len(prefix) + len(key) > MAX_NAME:
                if isinstance(value, _MAY_HOLD_TENSORS):
                    message = f"the name that ends in {printable(key)!r} exceeds {MAX_NAME} characters"
                    raise CheckpointError("too-deep", message)
                continue
            name = f"{prefix}.{key}" if len(stack) > 2 else key
            inner = self._enter(name, value)
            if inner is None:
                continue
            if id(value) in path:
                raise CheckpointError("cycle", f"{printable(name)!r} contains itself")
            if len(path) >= MAX_DEPTH:
                message = f"{printable(name)!r} is nested more than {MAX_DEPTH} levels deep"
                raise CheckpointError("too-deep", message)
            path.append(id(value))
            stack.append((name, inner))

    def _count_visit(self) -> None:
        if self.visits:
            self.visits -= 1
            return
        self.budget.visits -= 1
        if self.budget.visits < 0:
            message = "following references visits far more values than the file holds"
            raise CheckpointError("node-budget", message)

    def _enter(self, name: str, value: Any) -> Iterator[Member] | None:
        """Store a scalar or tensor, or return the members of any other value."""
        if value is None or type(value) in (int, float, bool, str):
            self._keep_scalar(name, value)
            return None
        if isinstance(value, NumpyArray) and value.tensor is not None:
            value = value.tensor
        if isinstance(value, Tensor):
            self.checkpoint.add(name, value)
            self._pay_for_name(120 + len(name))
        elif isinstance(value, UnsupportedTensor):
            raise CheckpointError(
                "unsupported-tensor",
                f"{printable(name)!r} is a {value.kind}; save it as a plain dense tensor on the CPU",
            )
        elif isinstance(value, Placeholder) and value.packed_class == QUANTIZED_RNN:
            raise CheckpointError(
                "unsupported-tensor",
                f"{printable(name)!r} holds the packed weights of a quantized dynamic LSTM or GRU; "
                "convert the float model that it was made from",
            )
        members = self.children(value, name)
        is_foreign = members is None and isinstance(value, Placeholder | GlobalName)
        if is_foreign and WEIGHT.fullmatch(name.rpartition(".")[2]):
            message = f"{printable(name)!r} is {_describe(value)}, which the reader does not call"
            raise CheckpointError("foreign-weight", message)
        return members

    def _pay_for_name(self, nbytes: int) -> None:
        self.names_left -= nbytes
        if self.names_left < 0:
            raise CheckpointError("node-budget", "the names of the tensors take too much memory")

    def _keep_scalar(self, name: str, value: Scalar) -> None:
        """Store a scalar. If they are too many or ambiguous, warn and drop all of them."""
        if self.scalars_left < 0:
            return
        self.scalars_left -= 200 + len(name) + (len(value) if isinstance(value, str) else 0)
        scalars = self.checkpoint.scalars
        if self.scalars_left < 0:
            problem = "take too much memory"
        elif name in scalars:
            problem = f"have the name {printable(name)!r} twice"
        else:
            scalars[name] = value
            return
        self.checkpoint.warnings.append(f"the scalars of the file {problem}; none are kept")
        scalars.clear()
        self.scalars_left = -1

    def children(self, value: Any, name: str) -> Iterator[Member] | None:
        """Return the named members of a value; None if it cannot have any."""
        if isinstance(value, dict):
            return _dict_members(value)
        if isinstance(value, list | tuple):
            return ((str(index), item) for index, item in enumerate(value))
        if isinstance(value, Placeholder):
            members = self.members(value)
            self._keep_hints(value, name)
            return None if members is None else iter(members)
        return None

    def _keep_hints(self, module: Placeholder, name: str) -> None:
        """Store the settings and the class of an LSTM module."""
        hint = module_hints(module)
        if not hint:
            return
        self._pay_for_name(620 + len(name))
        if "dropout" in hint and 0 <= hint["dropout"] <= 1:
            hint["dropout"] = float(hint["dropout"])
        elif "dropout" in hint:
            self.checkpoint.warnings.append(
                f"{printable(name)!r} has dropout {describe(hint['dropout'])}, expected 0 to 1; its dropout "
                "and batch_first are ignored"
            )
            del hint["batch_first"], hint["dropout"]
        if hint:
            self.checkpoint.hints[name and f"{name}."] = hint


def _dict_members(value: dict[Any, Any]) -> Iterator[Member]:
    for key, item in value.items():
        if type(key) is str:
            yield key, item
        elif type(key) is int:
            yield str(key), item
        elif isinstance(item, Tensor | NumpyArray | UnsupportedTensor):
            raise CheckpointError(
                "unsupported-tensor",
                f"the dictionary key of a tensor has type {type(key).__name__}, expected str or int",
            )
        else:
            yield None, item


def _describe(value: Any) -> str:
    if isinstance(value, Placeholder):
        return f"the result of {value.cls}"
    return str(value) if isinstance(value, GlobalName) else f"a {type(value).__name__}"
