"""The kernels of a platform, and the recurrence that dispatches to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxlstm.kernels import operations
from jaxlstm.kernels.operations import KernelOperation
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.layer.scan import Recurrence

Results = dict[str, Any] | None
"""Arrays by name, or None if a kernel does not support the arguments."""


class PlatformKernels(NamedTuple):
    """The kernels of one platform.

    Each takes the arguments of its operations (:mod:`jaxlstm.kernels.operations`), then ``out``, a dict of
    ``jax.ShapeDtypeStruct``, and ``reverse`` and ``precision`` by keyword. It returns arrays of the names and
    shapes in ``out``, or None if it does not support the arguments; the plain function then runs.

    Attributes:
      platform: JAX's name of the platform: "cpu", "cuda" or "tpu".
      forward: FORWARD and FORWARD_AND_DIFFERENTIATE. In the latter, ``out`` also has the fields of
        :class:`jaxlstm.layer.cell.StepDerivative`, and "m" with a projection.
      backward: BACKWARD. ``out`` has "z_bar", and "h_bar" and "c_bar" for the initial state. It also has
        "projection_bar", the cotangent of dW_hr m, if ``projected``.
      gradients: GRADIENTS, or None to use matrix products by XLA.
    """

    platform: str
    forward: Callable[..., Results]
    backward: Callable[..., Results]
    gradients: Callable[..., Results] | None = None


def build_recurrence(name: str, kernels: PlatformKernels, *, required_by: str | None = None) -> Recurrence:
    """Return a recurrence that runs kernels on their platform and the plain scan on all others.

    Args:
      name: prefix of the primitives' names in a jaxpr, such as ``name_forward``. It must be unique.
      kernels: the kernels.
      required_by: name of the backend that requires a kernel. Lowering for another platform is then an error,
        except in ``jax.export``, which always gets the plain scan. None: the plain scan runs.
    """

    def primitive(
        operation: KernelOperation,
        kernel: Callable[..., Results] | None = None,
        transpose: KernelPrimitive | None = None,
    ) -> KernelPrimitive:
        return KernelPrimitive(name, operation, kernels.platform, kernel, transpose, required_by=required_by)

    return Recurrence(
        primitive(operations.FORWARD, kernels.forward),
        primitive(operations.FORWARD_AND_DIFFERENTIATE, kernels.forward),
        primitive(operations.OUTPUTS_TANGENT, None, primitive(operations.BACKWARD, kernels.backward)),
        primitive(operations.GATES_TANGENT, None, primitive(operations.GRADIENTS, kernels.gradients)),
    )
