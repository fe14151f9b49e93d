"""Random trees of modules survive the way to Flax and back."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlstm
from testing.flax_layers import CASES, LOSSY

# Trees of modules: the name of a case of the porting table, or a container

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
    st.sampled_from([name for name in CASES if name not in LOSSY]),
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


def build_torch(tree: str | Branch) -> torch.nn.Module:
    if isinstance(tree, str):
        return CASES[tree].torch().double()
    children = {name: build_torch(child) for name, _, child in tree.children}
    if tree.kind == "dict":
        return torch.nn.ModuleDict(children)
    return (torch.nn.ModuleList if tree.kind == "list" else torch.nn.Sequential)(*_listed(tree, children))


def _listed(tree: Branch, children: dict[str, Any]) -> list[Any]:
    values = list(children.values())
    return [values] if tree.kind == "list" else values


def build_flax(tree: str | Branch, rngs: nnx.Rngs) -> nnx.Module:
    if isinstance(tree, str):
        return CASES[tree].flax(rngs)
    children = {name: build_flax(child, rngs) for _, name, child in tree.children}
    if tree.kind == "dict":
        return nnx.Dict(children)
    return (nnx.List if tree.kind == "list" else nnx.Sequential)(*_listed(tree, children))


def names_of(tree: str | Branch, torch: str = "", flax: str = "") -> dict[str, str]:
    """Return torch prefix -> Flax prefix of every child that is renamed or below a renamed one."""
    if isinstance(tree, str):
        return {torch: flax} if torch != flax else {}
    names = {}
    for theirs, ours, child in tree.children:
        names |= names_of(child, f"{torch}.{theirs}".strip("."), f"{flax}.{ours}".strip("."))
    return names


@settings(deadline=None, derandomize=True, max_examples=15)
@given(TREES, st.integers(0, 2**31))
def test_random_trees(tree: str | Branch, seed: int) -> None:
    """The state dict comes back from a model, and from a second model that is filled from these arrays."""
    torch.manual_seed(seed)
    theirs = build_torch(tree)
    names = names_of(tree)
    source: Any = theirs
    for _ in range(2):
        with jax.enable_x64(True), warnings.catch_warnings():
            warnings.simplefilter("ignore", jaxlstm.PortingWarning)
            model = nnx.eval_shape(lambda: build_flax(tree, nnx.Rngs(0)))
            assert jaxlstm.load_state_dict(model, source, names=names).complete
            source = jaxlstm.state_dict(model, names=names)
        other = build_torch(tree)
        other.load_state_dict(source)
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name
