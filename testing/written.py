"""Flax source that is written in a test, run beside its program."""

import dataclasses
import re
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm_converters.source._write_source import SourceFiles
from testing.graphs import to_numpy


class Written(NamedTuple):
    """Written source.

    Attributes:
        model: the filled model, in evaluation mode.
        remarks: what could not be written idiomatically.
    """

    text: str
    program: jaxlstm.programs.Program
    model: Any
    remarks: tuple[str, ...]


def write(module: nn.Module, *args: Any, **settings: Any) -> Written:
    """Return the source of a module, and the model that it makes; see :func:`written_program`."""
    return written_program(jaxlstm.from_module(module.eval(), args), **settings)


def written_program(
    program: Any,
    *,
    edits: Mapping[str, str] | None = None,
    weights: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    **settings: Any,
) -> Written:
    """Return the source of a program, and its model; ``edits`` and ``weights`` make it wrong."""
    source = SourceFiles.of(program, "written.py", **settings)
    text = source.text
    for pattern, replacement in (edits or {}).items():
        text, count = re.subn(pattern, replacement, text)
        assert count, f"{pattern} is not in {source.text}"
    namespace = types.ModuleType("written")
    namespace.__dict__.update(jnp=jnp)
    exec(compile(text, "written.py", "exec"), namespace.__dict__)
    model = getattr(namespace, source.model)(rngs=nnx.Rngs(0))
    model.eval()
    with warnings.catch_warnings():
        # About settings that no state dict records, which is the writer's part, and about faults.
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        # A changed layer may lack a bias.
        jaxlstm.load_state_dict(model, weights({**source.tensors}), strict=not edits)
    return Written(text, program, model, source.remarks)


def altered(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Let the writer make a fault."""
    original = SourceFiles.of.__func__  # type: ignore[attr-defined]

    def of(cls: Any, *args: Any, **kwargs: Any) -> SourceFiles:
        files = original(cls, *args, **kwargs)
        assert old in files.text
        return dataclasses.replace(files, text=files.text.replace(old, new))

    monkeypatch.setattr(SourceFiles, "of", classmethod(of))


def assert_equal(written: Written, *args: Any, eager: bool = False) -> None:
    """Raise unless the model and the program give equal results of equal types under ``jit``.

    With ``eager``, the model without ``jit`` must agree too, and take NumPy's arrays.
    """
    host = jax.tree.map(to_numpy, args)
    expected = jax.jit(written.program)(written.program.params, *host)
    actual = jax.jit(lambda *arrays: written.model(*arrays))(*host)
    for results in (actual, written.model(*host)) if eager else (actual,):
        assert jax.tree.structure(results) == jax.tree.structure(expected)
        for ours, theirs in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
            assert (np.shape(ours), np.asarray(ours).dtype) == (np.shape(theirs), np.asarray(theirs).dtype)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def assert_holds(written: Written, *args: Any) -> None:
    """Raise unless values and gradients of the model equal the program's, also at other sizes."""
    report = jaxlstm.check.verify_model(written.model, written.program, tuple(a.numpy() for a in args))
    report.raise_if_failed()
    assert any(item.kind == "gradient" and item.ok for item in report.items)


def body_of(text: str, name: str) -> Sequence[str]:
    """Return the lines of a class."""
    lines = text.split("\n")
    start = next(place for place, line in enumerate(lines) if line.startswith(f"class {name}("))
    end = next((p for p in range(start + 1, len(lines)) if lines[p] and lines[p][0] != " "), len(lines))
    return [line for line in lines[start:end] if line]
