"""Parameters of a model whose values torch does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.subjects.model import ModelSubject

Array = np.ndarray


def foreign_weights(subject: ModelSubject, theirs: Mapping[str, Array]) -> Iterator[str]:
    """Name the parameters whose values torch does not have, by the dtype to which torch's were rounded."""
    ours = subject.working.call.params
    foreign: dict[str, list[str]] = {}
    for name in subject.pairing.unpaired:
        value = ours[name]
        like = [p for p in theirs.values() if p.size == value.size]
        halves = (d for d in ("bfloat16", "float16") if any(_equal_in(d, value, p) for p in like))
        foreign.setdefault(next(halves, ""), []).append(name)
    if len(foreign.get("", ())) == len(ours) > 1:
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
