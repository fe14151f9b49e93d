"""Lowering of a primitive: the devices that a program is compiled for, and platforms without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

from jax.extend.core import Primitive


def unsupported(backend: str, platform: str) -> Callable:
    """Return a stand-in for the kernel of ``platform`` on all others; it raises an error."""

    def raise_error(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f"backend={backend!r} has kernels for {platform}, but this program is compiled "
            "for another platform; use backend='auto' or 'scan'"
        )

    return raise_error


class Devices(Enum):
    """The devices that a primitive is lowered for.

    In a ``jax.shard_map`` over all axes of the mesh the value is ONE, because the body runs per device.
    """

    ONE = "one"
    SEVERAL = "several"
    UNKNOWN = "unknown"


def devices_of(context: Any) -> Devices:
    """Return the devices of the axis context of a program that is being lowered."""
    manual = getattr(context, "manual_axes", None)
    if manual is not None:
        all_manual = set(manual) == set(context.mesh.axis_names)
        return Devices.ONE if all_manual else Devices.UNKNOWN
    if context.num_devices == 1:
        return Devices.ONE
    return Devices.UNKNOWN if context.abstract_mesh is None else Devices.SEVERAL


def lower_with_mesh(primitive: Primitive) -> None:
    """Make JAX pass the mesh of the program to the lowering rule, which needs it to partition the kernel.

    JAX has no public API for this. If the private name disappears, the rule cannot see the mesh, and programs
    for several devices run the plain function.
    """
    with suppress(ImportError):
        from jax._src.dispatch import prim_requires_devices_during_lowering

        prim_requires_devices_during_lowering.add(primitive)
