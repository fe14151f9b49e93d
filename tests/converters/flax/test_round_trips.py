"""Random layouts are invertible, and random trees of modules survive the way to Flax and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlstm
from jaxlstm_converters.flax.layouts import Flip, Layout, Reshape, Split, Transpose, chain, linear

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=50)

# Layouts


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, list[tuple[int, ...]]]:
    """Return a chain of layouts, and the shapes of the torch tensors that it takes."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    shapes, steps = [shape], []
    for kind in draw(st.lists(st.sampled_from(["transpose", "flip", "reshape", "split"]), max_size=4)):
        if kind == "transpose":
            axes = tuple(draw(st.permutations(range(len(shape)))))
            steps.append(Transpose(axes))
            shape = tuple(shape[axis] for axis in axes)
        elif kind == "flip":
            axes = draw(st.sets(st.integers(0, len(shape) - 1)))
            steps.append(Flip(tuple(axes)))
        elif kind == "reshape":
            new = (int(np.prod(shape)), 1)
            steps.append(Reshape(shape, new))
            shape = new
        elif not any(isinstance(step, Split) for step in steps):
            axis = draw(st.integers(0, len(shape) - 1))
            steps.append(Split(shape[axis], axis))
            shape = (*shape[:axis], 1, *shape[axis + 1 :])
    return chain(*steps) if steps else Layout(), shapes


@EXAMPLES
@given(layouts())
def test_layouts_are_invertible(case: tuple[Layout, list[tuple[int, ...]]]) -> None:
    layout, shapes = case
    arrays = tuple(np.arange(np.prod(shape)).reshape(shape) for shape in shapes)
    flax = layout.to_flax(arrays)
    assert layout.torch_shapes([array.shape for array in flax]) == shapes
    for expected, actual in zip(arrays, layout.to_torch(flax), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert layout.loss == ""


@EXAMPLES
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_linear_layout(kernel: list[int], data: st.DataObject) -> None:
    """The reshaped kernel gives the product of torch's matrix."""
    inputs = data.draw(st.integers(1, len(kernel) - 1))
    sizes = int(np.prod(kernel[:inputs])), int(np.prod(kernel[inputs:]))
    weight = np.random.default_rng(0).standard_normal(sizes[::-1])
    x = np.random.default_rng(1).standard_normal(kernel[:inputs])
    (ours,) = linear(tuple(kernel), inputs).to_flax((weight,))
    y = np.tensordot(x, ours, inputs)
    np.testing.assert_allclose(y.reshape(-1), weight @ x.reshape(-1), atol=1e-12)


# Trees of modules


class Leaf(NamedTuple):
    """A layer in torch and in Flax."""

    torch: Callable[[], torch.nn.Module]
    flax: Callable[[nnx.Rngs], nnx.Module]


def _leaf(kind: str, n: int, m: int) -> Leaf:
    match kind:
        case "linear":
            return Leaf(lambda: torch.nn.Linear(n, m), lambda rngs: nnx.Linear(n, m, rngs=rngs))
        case "conv":
            return Leaf(
                lambda: torch.nn.Conv2d(n, m, (2, 3), bias=False),
                lambda rngs: nnx.Conv(n, m, (2, 3), use_bias=False, rngs=rngs),
            )
        case "conv transpose":
            return Leaf(
                lambda: torch.nn.ConvTranspose1d(n, m, 3),
                lambda rngs: nnx.ConvTranspose(n, m, (3,), rngs=rngs),
            )
        case "embed":
            return Leaf(lambda: torch.nn.Embedding(n, m), lambda rngs: nnx.Embed(n, m, rngs=rngs))
        case "batch norm":
            return Leaf(lambda: torch.nn.BatchNorm1d(n), lambda rngs: nnx.BatchNorm(n, rngs=rngs))
        case "layer norm":
            return Leaf(lambda: torch.nn.LayerNorm(n), lambda rngs: nnx.LayerNorm(n, rngs=rngs))
        case "prelu":
            return Leaf(torch.nn.PReLU, lambda rngs: nnx.PReLU())
        case "attention":
            return Leaf(
                lambda: torch.nn.MultiheadAttention(n * m, n),
                lambda rngs: nnx.MultiHeadAttention(n, n * m, decode=False, rngs=rngs),
            )
        case "weight norm":
            return Leaf(
                lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(n, m)),
                lambda rngs: nnx.WeightNorm(nnx.Linear(n, m, rngs=rngs), rngs=rngs),
            )
        case _:
            return Leaf(
                lambda: torch.nn.LSTM(n, m, bidirectional=True),
                lambda rngs: jaxlstm.nnx.LSTM(n, m, bidirectional=True, rngs=rngs),
            )


KINDS = (
    "linear",
    "conv",
    "conv transpose",
    "embed",
    "batch norm",
    "layer norm",
    "prelu",
    "attention",
    "weight norm",
    "lstm",
)
SIZES = st.integers(1, 3)
# "module", "weight" and "state" are also names of wrappers, tensors and keys of checkpoints.
NAMES = st.sampled_from(["a", "b", "layer", "module", "conv_1", "weight", "state", "x0"])


class Branch(NamedTuple):
    """A container: a dict of modules with a name in torch and in Flax for each, a list, or a Sequential."""

    kind: str
    children: list[tuple[str, str, Any]]


def _named(children: dict[str, Any], renames: dict[str, str]) -> Branch:
    """Return a dict of modules; the names in Flax are unique, as those in torch are."""
    flax = {name: renames.get(name, name) for name in children}
    if len(set(flax.values())) < len(flax):
        flax = {name: name for name in children}
    return Branch("dict", [(name, flax[name], child) for name, child in children.items()])


def _indexed(kind: str, children: list[Any]) -> Branch:
    return Branch(kind, [(str(index), str(index), child) for index, child in enumerate(children)])


TREES = st.recursive(
    st.builds(_leaf, st.sampled_from(KINDS), SIZES, SIZES),
    lambda trees: st.one_of(
        st.builds(
            _named,
            st.dictionaries(NAMES, trees, min_size=1, max_size=3),
            st.dictionaries(NAMES, NAMES, max_size=2),
        ),
        st.builds(_indexed, st.sampled_from(["list", "sequential"]), st.lists(trees, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def build_torch(tree: Leaf | Branch) -> torch.nn.Module:
    if isinstance(tree, Leaf):
        return tree.torch()
    children = {name: build_torch(child) for name, _, child in tree.children}
    if tree.kind == "dict":
        return torch.nn.ModuleDict(children)
    return (torch.nn.ModuleList if tree.kind == "list" else torch.nn.Sequential)(*_listed(tree, children))


def _listed(tree: Branch, children: dict[str, Any]) -> list[Any]:
    values = list(children.values())
    return [values] if tree.kind == "list" else values


def build_flax(tree: Leaf | Branch, rngs: nnx.Rngs) -> nnx.Module:
    if isinstance(tree, Leaf):
        return tree.flax(rngs)
    children = {name: build_flax(child, rngs) for _, name, child in tree.children}
    if tree.kind == "dict":
        return nnx.Dict(children)
    return (nnx.List if tree.kind == "list" else nnx.Sequential)(*_listed(tree, children))


def names_of(tree: Leaf | Branch, torch: str = "", flax: str = "") -> dict[str, str]:
    """Return torch prefix -> Flax prefix of every child that is renamed or below a renamed one."""
    if isinstance(tree, Leaf):
        return {torch: flax} if torch != flax else {}
    names = {}
    for theirs, ours, child in tree.children:
        names |= names_of(child, f"{torch}.{theirs}".strip("."), f"{flax}.{ours}".strip("."))
    return names


@settings(EXAMPLES, max_examples=15)
@given(TREES, st.integers(0, 2**31))
def test_random_trees(tree: Leaf | Branch, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = build_torch(tree)
    model = nnx.eval_shape(lambda: build_flax(tree, nnx.Rngs(0)))
    names = names_of(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        assert jaxlstm.load_state_dict(model, theirs, names=names).complete
    restored = jaxlstm.state_dict(model, names=names)
    other = build_torch(tree)
    other.load_state_dict(restored)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    # A second model, filled from the arrays, is the same.
    again = nnx.eval_shape(lambda: build_flax(tree, nnx.Rngs(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        jaxlstm.load_state_dict(again, restored, names=names)
    twice = jaxlstm.state_dict(again, names=names)
    assert all(np.array_equal(array, twice[name]) for name, array in restored.items())
