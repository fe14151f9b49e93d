"""How exact the matrix products are, and which dtypes there are.

**Why "highest" is the default.** JAX's own default multiplies float32 matrices in float32 on a CPU, in
TF32 (10 bits of mantissa) on an A100 or H100, and in bfloat16 (7 bits) on a TPU. A port checked on a
laptop is then off by 1e-3 on the accelerator, and looks like a bug. With ``"highest"`` a float32 LSTM
is a float32 LSTM everywhere.

**The faster settings.** ``precision=`` names the coarsest arithmetic in which a product of float32 matrices
may be done; a backend does no worse, and better where that costs nothing:

===================================  =======  ==========  ==========================
``precision=``                       CPU      A100, H100  TPU
===================================  =======  ==========  ==========================
``"highest"`` or ``"float32"``       float32  float32     six passes of bfloat16
``"high"`` or ``"tensorfloat32"``    float32  TF32        three passes of bfloat16
``"default"`` or ``"bfloat16"``      float32  TF32        bfloat16
===================================  =======  ==========  ==========================

Six passes are as exact as float32, three have about 16 bits. A ``jax.lax.Precision`` is taken as it is, and
``None`` is whatever ``jax.default_matmul_precision`` says when ``lstm`` is called, for the backward pass
too. Products of float16, bfloat16 and float64 are not changed by any of this. torch's LSTM on a GPU runs in
TF32 unless ``torch.backends.cudnn.rnn.fp32_precision = "ieee"``: to match it there, set both sides.

**Half precision.** Products of float16 and bfloat16 accumulate in float32, and the gates are computed in
float32; h and c are rounded to the working dtype after each step, so that a state handed from one call to
the next is the state inside one long call.
"""

from __future__ import annotations

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
    """The ``jax.lax.Precision`` that a setting stands for.

    None stays None where JAX has no default, or one that is no ``jax.lax.Precision`` but the name of a
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


# Where JAX's default is the name of an algorithm: the coarsest level that is worse on no device. All others
# of these names are taken for float32.
_LEVELS_OF_ALGORITHMS = {
    None: lax.Precision.DEFAULT,
    "BF16_BF16_BF16": lax.Precision.DEFAULT,
    "BF16_BF16_F32": lax.Precision.DEFAULT,
    "F16_F16_F16": lax.Precision.HIGH,
    "F16_F16_F32": lax.Precision.HIGH,
    "TF32_TF32_F32": lax.Precision.HIGH,
}


def level_of(precision: Precision) -> lax.Precision:
    """What a kernel takes a setting for, which multiplies by itself and knows no other algorithms.

    That is what :func:`resolve` finds, and where it finds None a level that is no worse than JAX's default.
    """
    found = resolve(precision)
    if found is not None:
        return found
    config: Any = jax.config
    default = config.jax_default_matmul_precision
    return _LEVELS_OF_ALGORITHMS.get(default, lax.Precision.HIGHEST)


def gate_dtype(dtype: Any) -> np.dtype:
    """The dtype in which gates are computed: float32 for half precision, else the working dtype."""
    return jnp.promote_types(dtype, jnp.float32)


def linear(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "outputs inputs"],
    bias: Float[Array, "outputs"] | None = None,
    *,
    precision: Precision,
) -> Float[Array, "*batch outputs"]:
    """``x @ weight.T + bias`` as in ``torch.nn.functional.linear``: (..., in), (out, in) -> (..., out).

    The result has :func:`gate_dtype` of the operands' dtype.
    """
    product = lax.dot_general(
        x,
        weight,
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=resolve(precision),
        preferred_element_type=gate_dtype(x.dtype),
    )
    return product if bias is None else product + bias.astype(product.dtype)


def require_dtype(name: str, dtype: Any) -> np.dtype:
    """The dtype, if it is one that an LSTM can have here and now; a TypeError tells what else to do.

    JAX turns float64 into float32 without a word unless its 64-bit mode is on; here that is an error.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {dtype!r}; "
            "a torch tensor becomes an array with .detach().cpu().numpy()"
        ) from None
    if found not in DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {found}")
    if found == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise TypeError(
            f"{name} is float64, but JAX's 64-bit mode is off and would make it float32. Turn it on with "
            "jax.config.update('jax_enable_x64', True) or JAX_ENABLE_X64=1, or cast to float32 yourself"
        )
    return found


def as_float_array(name: str, value: Any) -> jax.Array:
    """``value`` as a JAX array of an LSTM's dtype, never silently rounded.

    Raises:
      TypeError: not an array, not a floating dtype, or float64 while JAX's 64-bit mode is off.
    """
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(
            f"{name} must be a JAX or NumPy array, got {type(value).__name__}; "
            "make one with jnp.asarray(..., dtype=jnp.float32)"
        )
    require_dtype(name, value.dtype)
    return jnp.asarray(value)
