"""The values of the pickle machine beyond the built-in types. None of them has behaviour."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import printable
from ..io.files import CheckpointFile
from ..io.tensor import Tensor


@dataclass(frozen=True, slots=True)
class GlobalName:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}", 200)


@dataclass(frozen=True, slots=True)
class StorageType:
    """torch.FloatStorage and similar classes. The dtype of UntypedStorage is None."""

    dtype: np.dtype[Any] | None
    itemsize: int = 1


class OrderedDict(dict[Any, Any]):
    """collections.OrderedDict. BUILD may set attributes on it, which are dropped."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class Placeholder:
    """An instance of an unknown class, or the result of a call that the reader does not make.

    Attributes:
        cls: the class or function.
        args: the arguments of the call.
        state: the state from BUILD: the `__dict__` of an nn.Module that was saved whole.
        items: the elements of a set or list. The items of a dictionary are dropped.
    """

    cls: GlobalName
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    @property
    def packed_class(self) -> str:
        """The C++ class of weights that torch packed during quantization, or "".

        In a pickle the object is a torch.ScriptObject with the class in its state. In TorchScript
        the object has the class itself.
        """
        state = self.state
        if self.cls == GlobalName("torch", "ScriptObject") and type(state) is tuple:
            return state[1] if len(state) == 2 and type(state[1]) is str else ""
        return str(self.cls) if self.cls.module.startswith("__torch__.torch.classes") else ""


@dataclass(frozen=True, slots=True, eq=False)
class UnsupportedTensor:
    """A tensor of an unsupported kind. Naming it raises `unsupported-tensor`."""

    kind: str


@dataclass(slots=True, eq=False)
class TextSpan:
    """A long string that stays in the file, such as the bytes of an array in protocols 0 to 2.

    `latin1` is the number of its characters, once `_codecs.encode` has asked for them as bytes.
    """

    source: CheckpointFile
    offset: int
    length: int
    latin1: int | None = None


@dataclass(slots=True, eq=False)
class NumpyDtype:
    """numpy.dtype(code). BUILD sets the byte order. `code` is "" for a non-numeric dtype."""

    code: str
    order: str = "|"


@dataclass(slots=True, eq=False)
class NumpyArray:
    """A NumPy array, which BUILD fills. `tensor` stays None for an array of objects."""

    tensor: Tensor | None = None
