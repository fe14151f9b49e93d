"""Run programs from their files in a process that cannot import torch, and compare with saved results.

``python programs_child.py FOLDER STEM...`` reads ``STEM.pt2`` and the cases of
:mod:`testing.model_shapes.shape`. It prints as JSON the largest relative error of values and gradients
in each case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxlstm
from jaxlstm.programs import tree

Arrays = dict[str, np.ndarray]


def errors(program: Any, case: Arrays) -> dict[str, float]:
    """Return the largest errors of values and gradients, jitted, relative to the largest entries."""
    inputs = _numbered(case, "input")
    floating = {str(k): x for k, x in inputs.items() if np.issubdtype(x.dtype, np.floating)}
    cotangents = _numbered(case, "cotangent")

    def loss(sources: Arrays, params: Any) -> tuple[Any, list[Any]]:
        leaves = [sources.get(str(k), x) for k, x in inputs.items()]
        args, kwargs = tree.unflatten(program.graph.in_tree, iter(leaves))
        outputs = tree.flatten(program.graph.out_tree, program(params, *args, **kwargs), "the results")
        return sum((outputs[k] * c).sum() for k, c in cotangents.items()), outputs

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, outputs), (by_input, by_param) = compiled(floating, program.params)
    values = {f"output.{k}": output for k, output in enumerate(outputs)}
    gradients = {f"gradient.{k}": g for k, g in by_input.items()}
    gradients |= {f"gradient.params.{name}": g for name, g in by_param.items()}
    given = {name for name in case if name.split(".")[0] in ("output", "gradient")}
    assert given == values.keys() | gradients.keys(), given ^ (values.keys() | gradients.keys())
    return {"values": _largest(values, case), "gradients": _largest(gradients, case)}


def _numbered(case: Arrays, kind: str) -> dict[int, np.ndarray]:
    return {int(name.split(".")[1]): x for name, x in case.items() if name.split(".")[0] == kind}


def _largest(actual: dict[str, Any], expected: Arrays) -> float:
    """Return the largest difference, relative to the largest entry of the same array.

    A gradient that is zero up to rounding, such as that of a bias before a normalization, is measured by the
    largest entry of all arrays.
    """
    overall = max(float(np.abs(expected[name]).max()) for name in actual)
    largest = 0.0
    for name, array in actual.items():
        theirs, ours = expected[name].astype(np.float64), np.asarray(array, np.float64)
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
        scale = max(float(np.abs(theirs).max()), 1e-2 * overall)
        largest = max(largest, float(np.abs(ours - theirs).max()) / scale)
    return largest


def main() -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]
    folder, *stems = sys.argv[1:]
    report: dict[str, list[dict[str, float]]] = {}
    for stem in stems:
        program = jaxlstm.load_program(Path(folder) / f"{stem}.pt2")
        report[stem] = []
        for path in sorted(Path(folder).glob(f"{stem}.*.npz")):
            with np.load(path) as case:
                report[stem].append(errors(program, dict(case)))
    assert sys.modules["torch"] is None
    print(json.dumps(report))


if __name__ == "__main__":
    main()
