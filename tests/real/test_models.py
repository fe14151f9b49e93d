"""Models of the packages in ``testing/wheels.py``, as Flax models and as programs, against their code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import check
from testing import real_models as real
from testing.real_models import PROBLEMS, Problem

pytestmark = pytest.mark.network


@pytest.mark.slow
@pytest.mark.parametrize("make", PROBLEMS)
def test_verify(make: Callable[[], Problem]) -> None:
    """Outputs, states and gradients equal torch's by the criteria of the checker."""
    problem = make()
    report = check.verify_model(problem.ours, problem.theirs, problem.args, names=problem.names)
    assert report.ok, str(report)


def test_resemblyzer_on_a_conversation() -> None:
    example = real.example("voice_encoder")
    ours, theirs = example.load(real.fetch_pinned(*real.RESEMBLYZER)), real.load_resemblyzer()
    windows = example.partial_utterances(example.mel_spectrogram(real.speech()))[8:24:2]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(ours(jnp.asarray(windows)), expected, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_silero_vad_on_a_conversation() -> None:
    """All frames in one call equal the package's model, which is called frame by frame."""
    example = real.example("silero_vad")
    ours, theirs = example.load(real.fetch_pinned(*real.SILERO)), real.load_silero_script()
    audio = real.speech()[96_000 : 96_000 + 100 * 512 - 300]
    padded = torch.from_numpy(np.pad(audio, (0, 300)))
    with torch.no_grad():
        expected = [theirs(padded[None, k : k + 512], 16000).item() for k in range(0, len(padded), 512)]
    probabilities = np.asarray(ours.whole(jnp.asarray(audio)))
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=2e-5)
    assert probabilities.min() < 0.1
    assert probabilities.max() > 0.9


def test_the_eager_silero_vad_equals_the_script() -> None:
    script = real.load_silero_script()
    frames, state = 0.1 * torch.randn(3, 576), 0.3 * torch.randn(2, 3, 128)
    with torch.no_grad():
        results = zip(real.SileroVAD(script)(frames, state), script._model(frames, state), strict=True)
    for ours, theirs in results:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_state_dict_is_that_of_the_package() -> None:
    ours = jaxlstm.state_dict(real.example("voice_encoder").load(real.fetch_pinned(*real.RESEMBLYZER)))
    theirs = real.load_resemblyzer().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key].numpy()) for key in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("make", PROBLEMS)
def test_program_equals_the_package(make: Callable[[], Problem], tmp_path: Path) -> None:
    """The program, exported from a short example, runs on an input of usual size."""
    problem = make()
    live = jaxlstm.from_module(problem.theirs, to_torch(problem.args))
    live.save(tmp_path / "model.pt2")
    read = jaxlstm.load_program(tmp_path / "model.pt2")
    args = problem.long_args
    with torch.no_grad():
        expected = jax.tree.leaves(jax.tree.map(np.asarray, problem.theirs(*to_torch(args))))
    for program in (live, read):
        actual = jax.tree.leaves(jax.jit(program)(program.params, *args))
        for ours, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))
    assert [node.op for node in read.graph.nodes] == [node.op for node in live.graph.nodes]


def to_torch(args: tuple[Any, ...]) -> Any:
    return jax.tree.map(torch.from_numpy, args)
