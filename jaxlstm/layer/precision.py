"""Dtypes, and the precision of matrix products.

**The default is "highest".** JAX's own default multiplies float32 matrices in float32 on a CPU, in TF32 (10
bits of mantissa) on an A100 or H100, and in bfloat16 (7 bits) on a TPU. A model that matches torch on a CPU
would then differ by 1e-3 on an accelerator, which looks like a bug. With ``"highest"`` a float32 LSTM is
computed in float32 on every device.

**Lower precision.** ``precision=`` names the lowest precision that a product of float32 matrices may use. A
backend may use a higher one where it costs nothing.

===================================  =======  ==========  =========================
``precision=``                       CPU      A100, H100  TPU
===================================  =======  ==========  =========================
``"highest"`` or ``"float32"``       float32  float32     six passes of bfloat16
``"high"`` or ``"tensorfloat32"``    float32  TF32        three passes of bfloat16
``"default"`` or ``"bfloat16"``      float32  TF32        one pass of bfloat16
===================================  =======  ==========  =========================

Six passes are as accurate as float32; three passes give about 16 bits of mantissa. A ``jax.lax.Precision``
is accepted too. ``None`` stands for ``jax.default_matmul_precision`` at the time of the call, for the
backward pass as well. Products of float16, bfloat16 and float64 do not depend on this setting. On a GPU,
torch's LSTM uses TF32 unless ``torch.backends.cudnn.rnn.fp32_precision = "ieee"``; set both libraries when
you compare them there.

**Half precision.** Products of float16 and bfloat16 accumulate in float32, and the gates are computed in
float32. The plain scan rounds h and c to the working dtype after each step, so splitting a sequence into
several calls does not change its results. The native CPU kernel keeps c in float32 during a call.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Precision = str | lax.Precision | None
DEFAULT: Precision = "highest"

DTYPES = tuple(jnp.dtype(d) for d in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


def resolve(precision: Precision) -> lax.Precision | None:
    """Return the ``jax.lax.Precision`` of a setting.

    None stays None if JAX has no default precision, or if its default is the name of a
    ``jax.lax.DotAlgorithmPreset``.
    """
    if isinstance(precision, lax.Precision):
        return precision
    if precision is None:
        config: Any = jax.config
        default = config.jax_default_matmul_precision
        return None if default in (None, *lax.DotAlgorithmPreset.__members__) else resolve(default)
    try:
        return lax.Precision(precision)
    except ValueError:
        raise ValueError(
            f"precision must be 'highest' (or 'float32'), 'high' (or 'tensorfloat32'), 'default' (or "
            f"'bfloat16'), None or a jax.lax.Precision; got {precision!r}"
        ) from None


def gate_dtype(dtype: Any) -> np.dtype:
    """Return the dtype in which gates are computed: float32 for half precision, else ``dtype``."""
    return jnp.promote_types(dtype, jnp.float32)


def linear(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "outputs inputs"],
    bias: Float[Array, "outputs"] | None = None,
    *,
    precision: Precision,
) -> Float[Array, "*batch outputs"]:
    """Return ``x @ weight.T + bias``, as ``torch.nn.functional.linear``, in the :func:`gate_dtype`."""
    return add_bias(product(x, weight, 1, precision=precision), bias)


def product(x: jax.Array, matrix: jax.Array, axis: int, *, precision: Precision) -> jax.Array:
    """Return the product of the last axis of x with an axis of a matrix, in the :func:`gate_dtype`."""
    return lax.dot_general(
        x,
        matrix,
        (((x.ndim - 1,), (axis,)), ((), ())),
        precision=resolve(precision),
        preferred_element_type=gate_dtype(x.dtype),
    )


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return ``x + bias`` in the dtype of x."""
    return x if bias is None else x + bias.astype(x.dtype)


def require_dtype(name: str, dtype: Any) -> np.dtype:
    """Return a dtype after a check that an LSTM supports it under the current JAX configuration.

    JAX silently turns float64 into float32 unless its 64-bit mode is on. Here that is an error.
    """
    try:
        checked = jnp.dtype(dtype)
    except TypeError:
        hint = "; convert a torch tensor with .detach().cpu().numpy(), a state dict with jaxlstm.from_torch"
        hint = "" if isinstance(dtype, str) else hint
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {dtype!r}{hint}"
        ) from None
    if checked not in DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {checked}")
    if checked == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise TypeError(
            f"{name} is float64, but JAX's 64-bit mode is off. Turn it on with "
            "jax.config.update('jax_enable_x64', True) or JAX_ENABLE_X64=1, or cast to float32"
        )
    return checked


def require_array(name: str, value: Any) -> None:
    """Raise a TypeError if ``value`` is not an array."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        kind = type(value).__name__
        packed = kind == "PackedSequence"
        convert = "jaxlstm.PackedSequence.from_torch" if packed else "jnp.asarray(..., dtype=jnp.float32)"
        raise TypeError(f"{name} must be a JAX or NumPy array, got {kind}; convert it with {convert}")


def as_float_array(name: str, value: Any, *, copy: bool = False) -> jax.Array:
    """Return ``value`` as a JAX array of the same dtype.

    With ``copy``, a NumPy array is copied first: JAX may share its memory, or read it after returning.

    Raises:
      TypeError: ``value`` is not an array, or its dtype fails :func:`require_dtype`.
    """
    require_array(name, value)
    require_dtype(name, value.dtype)
    return jnp.asarray(np.array(value) if copy and isinstance(value, np.ndarray) else value)
