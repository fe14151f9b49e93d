"""Matching paths of torch modules with paths of the model's modules."""

from __future__ import annotations

import re
from collections.abc import Mapping


class ModuleNames:
    """The map from torch's module paths to ours: a prefix in ``names`` is replaced, the longest first.

    Paths are compared without the ``layers`` that ``nnx.Sequential`` adds, and ``layers[0]`` equals
    ``layers.0``.
    """

    def __init__(self, names: Mapping[str, str] | None) -> None:
        """Take ``names``, which maps torch prefixes to ours.

        Raises:
          TypeError: if it is not a mapping of strings.
        """
        names = {} if names is None else names
        if not isinstance(names, Mapping) or not all(
            isinstance(s, str) for pair in names.items() for s in pair
        ):
            raise TypeError(f"names must map torch prefixes to prefixes of the model, got {names!r}")
        self._names = sorted(names.items(), key=lambda pair: -len(pair[0]))

    def ours(self, theirs: str) -> str:
        """Return the path of the model that a torch path corresponds to."""
        for prefix, replacement in self._names:
            if theirs == prefix or theirs.startswith(prefix + "."):
                return (replacement + theirs[len(prefix) :]).strip(".")
        return theirs

    def match(self, ours: str, theirs: str) -> bool:
        """Return True if two module paths correspond."""
        return _plain(ours) == _plain(self.ours(theirs))

    def same_module(self, our_parameter: str, their_parameter: str) -> bool:
        """Return True if two parameters belong to modules that correspond."""
        return self.match(our_parameter.rpartition(".")[0], their_parameter.rpartition(".")[0])


def _plain(path: str) -> str:
    steps = re.sub(r"\[(\w+)\]", r".\1", path).split(".")
    return ".".join(step for step in steps if step not in ("layers", ""))
