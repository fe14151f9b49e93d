"""The parameters of a model that failed: values that torch does not have, and wrong gradients."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.model.verification import ModelVerification

Array = np.ndarray

WRONG_GRADIENT = 1e-8
"""Relative error in float64 above which a gradient is wrong, and not just imprecise."""


def foreign_weights(verification: ModelVerification) -> Iterator[str]:
    """Name the parameters whose values torch does not have, by the dtype to which torch's were rounded."""
    theirs = verification.theirs.params()
    foreign: dict[str, list[str]] = {}
    for name in verification.pairing.unpaired:
        value = verification.working.call.params[name]
        like = [p for p in theirs.values() if p.size == value.size]
        halves = (d for d in ("bfloat16", "float16") if any(_equal_in(d, value, p) for p in like))
        foreign.setdefault(next(halves, ""), []).append(name)
    if len(foreign.get("", ())) == len(verification.working.call.params) > 1:
        yield "no parameter of the model has torch's values: fill it with jaxlstm.load_state_dict first"
        return
    for half, found in foreign.items():
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        hint = f"; they equal torch's rounded to {half}" if half else ""
        yield (
            f"the values of {', '.join(found[:3])}{more} are not a re-layout of any parameter of torch{hint}"
        )


def _equal_in(dtype: str, value: Array, other: Array) -> bool:
    rounded = [np.sort(a.astype(jnp.dtype(dtype)).astype(np.float32), axis=None) for a in (value, other)]
    return bool(np.array_equal(rounded[0], rounded[1]))


def wrong_gradients(verification: ModelVerification) -> Iterator[str]:
    """Describe wrong gradients of a model whose outputs are right."""
    for case, results in verification.evidence[:1]:
        truth = verification.truths[case.name]
        ours = verification.aligned(results, truth)
        for name, gradient in (ours.gradients or {}).items():
            expected = (truth.gradients or {})[name]
            scale = float(np.max(np.abs(expected), initial=0.0))
            if np.max(np.abs(gradient - expected), initial=0.0) > WRONG_GRADIENT * scale:
                yield f"the gradient of {name} {_wrong_gradient(gradient, expected, scale)}"


def _wrong_gradient(gradient: Array, expected: Array, scale: float) -> str:
    if not gradient.any():
        return "is zero, as after stop_gradient"
    ratio = float(np.vdot(gradient, expected) / (np.vdot(expected, expected) or 1.0))
    if np.allclose(gradient, ratio * expected, rtol=0, atol=WRONG_GRADIENT * scale):
        return f"is {ratio:.4g} times torch's"
    return "is wrong"
