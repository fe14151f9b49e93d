"""Flax source that is written in a test, run beside its program."""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm_converters.source import source_text


class Written(NamedTuple):
    """Written source.

    Attributes:
        text: the text of the file.
        program: the program.
        model: the filled model, in evaluation mode.
        remarks: what could not be written idiomatically.
    """

    text: str
    program: jaxlstm.programs.Program
    model: Any
    remarks: tuple[str, ...]


def write(module: nn.Module, *args: Any, **settings: Any) -> Written:
    """Return the source of a module, and the model that it makes."""
    return written_program(jaxlstm.from_module(module.eval(), args), **settings)


def written_program(program: jaxlstm.programs.Program, **settings: Any) -> Written:
    """Return the source of a program, and the model that it makes."""
    tensors = {**program.params, **program.buffers, **program.constants}
    source = source_text(program.graph, {k: np.asarray(v) for k, v in tensors.items()}, **settings)
    namespace = types.ModuleType("written")
    exec(compile(source.text, "written.py", "exec"), namespace.__dict__)
    model = getattr(namespace, source.class_names[-1])(rngs=nnx.Rngs(0))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)  # A dict of arrays records no settings.
        jaxlstm.load_state_dict(model, source.tensors)
    return Written(source.text, program, model, source.remarks)


def assert_equal(written: Written, *args: Any) -> None:
    """Raise unless the model and the program give equal results of equal structure, shapes and dtypes."""
    arrays = jax.tree.map(lambda x: jnp.asarray(x.numpy()), args)
    expected = written.program(written.program.params, *arrays)
    actual = written.model(*arrays)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (np.shape(ours), np.asarray(ours).dtype) == (np.shape(theirs), np.asarray(theirs).dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def body_of(text: str, name: str) -> Sequence[str]:
    """Return the lines of a class."""
    lines = text.split("\n")
    start = next(place for place, line in enumerate(lines) if line.startswith(f"class {name}("))
    end = next((p for p in range(start + 1, len(lines)) if lines[p] and lines[p][0] != " "), len(lines))
    return [line for line in lines[start:end] if line]
