"""Arguments and results of a model as trees, and their arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy

Array = np.ndarray


class ModelResults(NamedTuple):
    """The outputs of a model by name, and gradients by the name of the input or parameter, or None."""

    outputs: Mapping[str, Array]
    gradients: Mapping[str, Array] | None = None

    def leaves(self) -> Iterator[tuple[str, Array]]:
        """Yield the name and array of each output."""
        yield from self.outputs.items()

    def arrays(self) -> dict[str, Array]:
        """Return every array by name, with the gradient of ``x`` under ``d x``."""
        return dict(self.outputs) | {f"d {name}": a for name, a in (self.gradients or {}).items()}

    def floating(self) -> ModelResults:
        """Return the results without outputs of integers and bools."""
        return self._replace(outputs={name: a for name, a in self.outputs.items() if is_floating(a)})


@dataclass(frozen=True)
class ModelCase:
    """Arguments of a model, whose arrays are NumPy arrays."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelCase:
        """Return a case with the arrays and tensors of the arguments as NumPy arrays."""

        def convert(leaf: Any) -> Any:
            return as_numpy(leaf) if is_array(leaf) else leaf

        args, kwargs = jax.tree.map(convert, (tuple(args), dict(kwargs)))
        return cls(name, args, kwargs)

    def map(self, change: Callable[[Array], Any]) -> ModelCase:
        """Return the case with each array replaced by ``change(array)``."""
        args, kwargs = jax.tree.map(
            lambda leaf: change(leaf) if isinstance(leaf, np.ndarray) else leaf, (self.args, self.kwargs)
        )
        return replace(self, args=args, kwargs=kwargs)

    def astype(self, dtype: Any) -> ModelCase:
        """Return the case with its floating-point arrays in ``dtype``."""
        return self.map(lambda a: a.astype(dtype) if is_floating(a) else a)

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays among the arguments, in order."""
        return [a.shape for a in self.arrays_by_name().values()]

    def arrays_by_name(self) -> dict[str, Array]:
        """Return the arrays by name, such as ``args[0]`` or ``kwargs['mask']``."""
        named = named_leaves(self.args, "args") | named_leaves(self.kwargs, "kwargs")
        return {name: leaf for name, leaf in named.items() if isinstance(leaf, np.ndarray)}

    def with_arrays(self, arrays: Mapping[str, Any], name: str | None = None) -> ModelCase:
        """Return the case with other arrays, by the names of :meth:`arrays_by_name`."""
        new = iter([arrays[key] for key in self.arrays_by_name()])
        return replace(self.map(lambda _: next(new)), name=name or self.name)


def is_array(leaf: Any) -> bool:
    """Return True for a NumPy array, a JAX array or a torch tensor."""
    return isinstance(leaf, (np.ndarray, jax.Array)) or hasattr(leaf, "detach")


def is_floating(array: Any) -> bool:
    """Return True if an array has a floating-point dtype, bfloat16 included."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def named_leaves(tree: Any, name: str) -> dict[str, Any]:
    """Return the leaves of dicts, tuples and lists by name, such as ``outputs[1][0]``; None is dropped."""
    if tree is None:
        return {}
    if isinstance(tree, Mapping):
        entries = [(f"{name}[{key!r}]", value) for key, value in tree.items()]
    elif isinstance(tree, (tuple, list)):
        entries = [(f"{name}[{k}]", value) for k, value in enumerate(tree)]
    else:
        return {name: tree}
    return {path: leaf for entry, value in entries for path, leaf in named_leaves(value, entry).items()}
