"""``set_at``: writes at a place that is a value, such as ``x[i, lengths[i] - 1] = 0``.

torch would read the place as a number, which an export cannot.
"""

from typing import Any

import torch


def set_at(x: torch.Tensor, index: Any, value: Any) -> bool:
    """Write into a tensor as ``x[index] = value``. Return False if the index has no place that is a value."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(map(_is_place, parts)) or not all(_is_known(part) for part in parts):
        return False
    left = x.ndim - len(parts) + 1  # axes of an ellipsis
    at = [n for n, part in enumerate(parts) if part is ...]
    if at:
        parts = (*parts[: at[0]], *(slice(None),) * left, *parts[at[0] + 1 :])
    view = x[tuple(slice(None) if _is_place(part) else part for part in parts)]
    kept = [part for part in parts if _is_place(part) or isinstance(part, slice)]
    places = [None if isinstance(part, slice) else _as_tensor(part, x.device) for part in kept]
    if not isinstance(value, torch.Tensor):
        value = torch.full((), value, dtype=x.dtype, device=x.device)
    ndim = sum(place is None for place in places) + view.ndim - len(places)
    value = value.reshape(value.shape[max(value.ndim - ndim, 0) :])  # torch ignores leading axes of 1
    torch.ops.aten.index_put_.default(view, places, value.to(x.dtype))
    return True


def _is_place(part: Any) -> bool:
    """Return True for an integer tensor without axes, and for a number that was read from a tensor."""
    if isinstance(part, torch.SymInt):
        return not part.node.has_hint()
    is_tensor = isinstance(part, torch.Tensor) and part.ndim == 0
    return is_tensor and part.dtype in (torch.int16, torch.int32, torch.int64)


def _is_known(part: Any) -> bool:
    is_number = isinstance(part, int | torch.SymInt) and not isinstance(part, bool)
    return is_number or isinstance(part, slice) or part is ... or _is_place(part)


def _as_tensor(place: Any, device: torch.device) -> torch.Tensor:
    return (
        place if isinstance(place, torch.Tensor) else torch.full((), place, dtype=torch.int64, device=device)
    )
