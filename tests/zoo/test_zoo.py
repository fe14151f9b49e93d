"""Every specimen of the zoo in every way in which a whole model runs: torch's values and gradients."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.inference import compile
from jaxlstm.programs import loops
from jaxlstm_converters.source import looped
from testing.gradients import require_equal
from testing.graphs import to_numpy
from testing.written import assert_equal, written_program
from testing.zoo import ZOO
from testing.zoo.loops import STEPS
from testing.zoo.specimen import Specimen

pytestmark = pytest.mark.filterwarnings("ignore:.*fixed parts of the model", "ignore:Converting a tensor")


def chosen(*fast: str) -> list[Any]:
    """Return the names of all specimens; those that are not of ``fast``, names or themes, are slow."""
    slow = pytest.mark.slow
    return [name if {name, name.split("/")[0]} & {*fast} else pytest.param(name, marks=slow) for name in ZOO]


@pytest.fixture(autouse=True)
def _short_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps than usual are a loop. They are exported and compiled in half the time."""
    for module in (loops, looped):
        monkeypatch.setattr(module, "FEWEST_COPIES", STEPS - 2)


def made(specimen: Specimen) -> tuple[nn.Module, jaxlstm.Program]:
    module, example = specimen.build(), specimen.arguments(specimen.example)
    return module, jaxlstm.from_module(module, example, dynamic_shapes=specimen.dynamic_shapes)


def assert_close(actual: Any, expected: Any, atol: float) -> None:
    """Compare results with torch's: structure, shapes, dtypes and values."""
    expected = jax.tree.map(lambda leaf: to_numpy(leaf) if torch.is_tensor(leaf) else leaf, expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.shape(ours) == np.shape(theirs)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype.name == theirs.dtype.name.replace("int64", "int32")
        np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=1e-5, atol=atol)


QUICK = ("forecaster", "text recogniser", "tied language model", "voice detector")
FAST = ("loops", "packed", "regions", "selections", *(f"practice/{name}" for name in QUICK))


@pytest.mark.parametrize("name", chosen(*FAST))
def test_program(name: str, tmp_path: Path) -> None:
    """The program of the file: eager, jitted and differentiated, at the sizes of the export and others."""
    specimen = ZOO[name]
    module, live = made(specimen)
    live.save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    if specimen.exported_again:
        with pytest.raises(jaxlstm.ProgramError, match=r"\[input-shape"):
            program(program.params, *jax.tree.map(to_numpy, specimen.arguments(specimen.others[0])))
        program = live
    arrays: Any = ()
    for sizes in (specimen.example, *specimen.others, *specimen.eager):
        args = specimen.arguments(sizes)
        arrays = jax.tree.map(to_numpy, args)
        results = program(program.params, *arrays)
        jax.tree.map(np.testing.assert_array_equal, live(live.params, *arrays), results)
        assert_close(results, module(*args), 2 * specimen.atol)
        if sizes in specimen.eager:
            continue
        if specimen.gradients:
            require_equal(program, module, *args, jit=specimen.jit, atol=specimen.atol)
        else:
            assert_close(jax.jit(program)(program.params, *arrays), module(*args), specimen.atol)
    if specimen.scans is not None:
        # Without a kernel, a layer in the body is a scan too.
        found = str(jax.make_jaxpr(program)(program.params, *arrays)).count("scan[")
        assert found >= specimen.scans if specimen.scans else found == 0


@pytest.mark.parametrize("name", chosen("series"))
def test_compiled(name: str) -> None:
    """At every size, also of maps; and only axes whose padding cannot reach the results are padded."""
    specimen = ZOO[name]
    module, program = made(specimen)
    runner = compile(program)
    assert specimen.padded in (None, tuple(runner.padded.values()))
    for sizes in (specimen.example, *specimen.others, *specimen.eager):
        args = specimen.arguments(sizes)
        expected = module(*args)
        assert_close(runner(*jax.tree.map(to_numpy, args)), expected, 2e-5)
        if specimen.mapped:
            (x,) = args
            for row, actual in enumerate(runner.map([*x.numpy()])):
                leaves = jax.tree.leaves(actual), jax.tree.leaves(module(x[row : row + 1]))
                for ours, theirs, axis in itertools.zip_longest(*leaves, runner.batch_axes):
                    np.testing.assert_allclose(ours, to_numpy(theirs).take(0, axis), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", chosen("structure"))
def test_source(name: str) -> None:
    specimen = ZOO[name]
    _, program = made(specimen)
    written = written_program(program)
    for sizes in (specimen.example, *(() if specimen.exported_again else specimen.others)):
        assert_equal(written, *specimen.arguments(sizes), eager=sizes == specimen.example)
    for line in specimen.lines:
        assert written.text.count(f"        {line}\n") == 1
    if name.startswith("structure/"):
        assert "nnx.Dict({})" not in written.text  # of a module that only computes
        assert "jaxlstm.programs" not in written.text
