"""Every specimen of the zoo in every way in which a whole model runs: torch's values and gradients."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import jaxlstm
from jaxlstm.inference import compile
from jaxlstm.programs.passes import repeat_to_scan
from jaxlstm_converters.source.graph import steps_to_scan
from testing.gradients import assert_close, require_equal
from testing.graphs import to_numpy
from testing.written import assert_equal, assert_holds, written_program
from testing.zoo import THEMES, ZOO
from testing.zoo.loops import STEPS
from testing.zoo.specimen import Specimen

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")


class Export(NamedTuple):
    """A specimen, its module, and the program of the live module."""

    specimen: Specimen
    module: nn.Module
    program: jaxlstm.Program


@pytest.fixture(scope="module")
def export(request: pytest.FixtureRequest) -> Iterator[Export]:
    """Export a specimen once for all tests. Fewer steps than usual are a loop, which halves the time."""
    specimen = ZOO[request.param]
    module, example = specimen.build(), specimen.arguments(specimen.example)
    example = tree_map_only(torch.Tensor, torch.Tensor.detach, example)
    with pytest.MonkeyPatch.context() as patch:
        for part in (repeat_to_scan, steps_to_scan):
            patch.setattr(part, "FEWEST_COPIES", STEPS - 2)
        program = jaxlstm.from_module(module, example, dynamic_shapes=specimen.dynamic_shapes)
        yield Export(specimen, module, program)


def chosen(*fast: str, beyond: str = "") -> pytest.MarkDecorator:
    """Run a test for all specimens. Only ``fast`` names and themes run in ``make test``, without ``SLOW``.

    ``beyond`` has names, separated by semicolons, for which the test has no expectation, or is too strict.
    """
    cells = []
    for name in ZOO:
        is_quick = {name, name.split("/")[0]} & {*fast} and name not in SLOW
        marks = [] if is_quick else [pytest.mark.slow]
        if name in beyond.replace("\n", "").split("; "):
            marks.append(pytest.mark.xfail(reason="no expectation of this specimen"))
        cells.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("export", cells, indirect=True, scope="module")


# Their forward changes the module; or its gradients of 100 are compared as if they were of 1.
CHANGES = "statements/averaged; statements/frozen; "
LARGE = "vision_and_series/rectified text recogniser"
# Results of unknown sizes end with NaN, other sizes need another export, or autocast rounds otherwise.
NOT_COMPILED = """\
packed/arithmetic; packed/integers; packed/of integers; packed/some; regions/autocast; selections/documents; \
selections/graph; selections/groups; selections/last_steps; selections/longest; selections/numbers; \
selections/selected; """
# Source needs sizes that jit does not know; or without jit, integers of NumPy stay 64 bits wide.
NOT_WRITTEN = """\
packed/attention_without_gradient; packed/embedded; packed/integers; packed/norms; packed/numpy; \
packed/plain; packed/rows; packed/several; packed/some; packed/tolist; regions/autocast; \
selections/characters; selections/documents; selections/losses; \
selections/graph; selections/groups; selections/last_steps; selections/longest; selections/numbers; \
selections/put; selections/reversed_steps; selections/selected; selections/sorted_rows; series/argmax; \
series/number of steps; text/tagger"""
_SLOW = {
    "loops": (
        "backwards; changed_constant; first_state; heads; larger_batch; larger_mean; other_first_slice; "
        "signed_zero; single_steps; sizes; two_before; two_loops; unbound; windows; written; "
        "written_slices"
    ),
    "packed": (
        "arithmetic; attention_without_gradient; embedded; initial_state; integers; list; list of "
        "numbers; norms; of integers; other_layers; rows; several; some; tensors_of_numbers"
    ),
    "regions": "loop without gradient; recurrence",
    "selections": (
        "characters; documents; graph; groups; last_steps; longest; masks; put; reversed_steps; selected; "
        "sorted_rows"
    ),
    "series": (
        "features; linear; max; mean of rows; merged; pairs; pairs of rows; parity of rows; places of "
        "rows; pooled features; roll; smaller number; steps; sum of rows; table; tail; twice"
    ),
    "statements": "averaged; filled; framed; frozen; own sizes; viewed",
    "structure": (
        "attention; attention as layers; cells; channels first; computed; derived; masked attention; "
        "norms; rounds; smaller; transposed; twice; zipped"
    ),
}
"""By theme, specimens that take long, and whose features others have too."""
SLOW = {f"{theme}/{name}" for theme, names in _SLOW.items() for name in names.split("; ")}


@chosen("loops", "packed", "regions", "selections", beyond=CHANGES + LARGE)
def test_program(export: Export, tmp_path: Path) -> None:
    """The program of the file: eager, jitted and differentiated, at the sizes of the export and others."""
    specimen, module, live = export
    live.save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    assert program.params.keys() == dict(module.named_parameters()).keys()
    if not specimen.free:
        with pytest.raises(jaxlstm.ProgramError, match=r"\[input-shape"):
            program(program.params, *jax.tree.map(to_numpy, specimen.arguments(specimen.others[0])))
        program = live
    arrays: Any = ()
    for sizes in specimen.eager or [specimen.example]:
        args = specimen.arguments(sizes)
        arrays = jax.tree.map(to_numpy, args)
        results = program(program.params, *arrays)
        assert_close(results, module(*args), 2 * specimen.atol)
        jax.tree.map(np.testing.assert_array_equal, live(live.params, *arrays), results)
    for sizes in specimen.others or [specimen.example]:
        args = specimen.arguments(sizes)
        if specimen.gradients:
            require_equal(program, module, *args, jit=specimen.jit, atol=specimen.atol)
        else:
            results = jax.jit(program)(program.params, *jax.tree.map(to_numpy, args))
            assert_close(results, module(*args), specimen.atol)
    if specimen.scans is not None:
        # Without a kernel, a layer in the body is a scan too.
        found = str(jax.make_jaxpr(program)(program.params, *arrays)).count("scan[")
        assert found >= specimen.scans if specimen.scans else found == 0


@chosen("series", beyond=NOT_COMPILED + CHANGES)
def test_compiled(export: Export) -> None:
    """At every size, also of maps; and only axes whose padding cannot reach the results are padded."""
    specimen, module, program = export
    runner = compile(program)
    assert specimen.padded in (None, tuple(runner.padded.values()))
    for sizes in specimen.others or specimen.eager or [specimen.example]:
        args = specimen.arguments(sizes)
        expected = module(*args)
        results = runner(*jax.tree.map(to_numpy, args))
        assert_close(results, expected, 2e-5)
        assert {type(leaf) for leaf in jax.tree.leaves(results)} <= {np.ndarray, int}
    if specimen.mapped:
        xs = [specimen.arguments(sizes)[0][:1] for sizes in specimen.others]
        for x, actual in zip(xs, runner.map([x[0].numpy() for x in xs]), strict=True):
            leaves = jax.tree.leaves(actual), jax.tree.leaves(module(x))
            for ours, theirs, axis in itertools.zip_longest(*leaves, runner.batch_axes):
                np.testing.assert_allclose(ours, to_numpy(theirs).take(0, axis), rtol=0, atol=2e-5)


@chosen("structure", "statements", beyond=NOT_WRITTEN)
def test_source(export: Export) -> None:
    specimen, _, program = export
    written = written_program(program)
    if specimen.proven:
        assert_holds(written, *specimen.arguments(specimen.example))
    else:
        for number, sizes in enumerate(specimen.others * specimen.free or [specimen.example]):
            assert_equal(written, *specimen.arguments(sizes), eager=not number)
    texts = Counter(f"        {line}\n" for line in specimen.lines), Counter(specimen.words)
    for text, count in itertools.chain(*(found.items() for found in texts)):
        assert written.text.count(text) == count, text
    if specimen in THEMES["structure"].values():
        assert "nnx.Dict({})" not in written.text  # of a module that only computes
        assert "jaxlstm.programs" not in written.text
