"""What the pickle machine computes with, besides the plain types of Python.

None of these can do anything: they are names and slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..io.source import Source
from ..io.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class StorageType:
    """torch.FloatStorage and its kin; dtype is None for UntypedStorage."""

    dtype: np.dtype[Any] | None


class OrderedDict(dict[Any, Any]):
    """collections.OrderedDict. Unlike a dict it takes attributes by BUILD: they are dropped."""

    __slots__ = ()


class Foreign:
    """An instance of a class that is not known here, or the result of a call that is not made.

    Attributes:
        cls: the class or function.
        args: what it was called with.
        state: what BUILD set: the `__dict__` of an nn.Module that was saved whole.
        items: the members of a set or list. Keys and their values are dropped.
    """

    __slots__ = ("args", "cls", "items", "state")

    def __init__(self, cls: Global, args: tuple[Any, ...] = ()) -> None:
        self.cls = cls
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []

    @property
    def packed_class(self) -> str:
        """The C++ class of weights that torch packed when it quantized them; "" for others.

        Pickles have torch.ScriptObject and the class in its state, TorchScript the class itself.
        """
        state = self.state
        if self.cls == Global("torch", "ScriptObject") and type(state) is tuple:
            return state[1] if len(state) == 2 and type(state[1]) is str else ""
        return str(self.cls) if self.cls.module.startswith("__torch__.torch.classes") else ""


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """A tensor of a kind that cannot be read. It is an error once it has a name."""

    kind: str


@dataclass(slots=True, eq=False)
class TextSpan:
    """A long text of a pickle, left in the file: arrays, as protocols 0 to 2 write them.

    `latin1` is the number of its characters, once `_codecs.encode` asked for them as bytes.
    """

    source: Source
    offset: int
    length: int
    latin1: int | None = None


@dataclass(slots=True, eq=False)
class NumpyDtype:
    """numpy.dtype(code), its byte order set by BUILD. `code` is "" for one that is not numeric."""

    code: str
    order: str = "|"


@dataclass(slots=True, eq=False)
class NumpyArray:
    """A numpy array: named first, filled by BUILD. `tensor` stays None for arrays of objects."""

    tensor: Tensor | None = None
