"""The diagnosis of a failed verification, and the ids and kinds of the failed items that it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from jaxlstm.check.report.difference import StepDifference
from jaxlstm.check.report.item import Item, LayerDifference


@dataclass(frozen=True)
class Diagnosis:
    """The explanations, the most likely first, and where a port or the layers of a model differ."""

    lines: tuple[str, ...] = ()
    difference: StepDifference | None = None
    layers: tuple[LayerDifference, ...] = ()


class Failures(NamedTuple):
    """The ids and kinds of the failed items."""

    ids: frozenset[str]
    kinds: frozenset[str]

    @classmethod
    def of(cls, items: Iterable[Item]) -> Failures:
        """Return the failures among items."""
        failed = [item for item in items if item.ok is False]
        return cls(frozenset(item.id for item in failed), frozenset(item.kind for item in failed))
