"""Fourier transforms of signals, images and frames, and complex numbers: parts, absolute value, angle."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.operators.dtypes import as_float
from jaxlstm.programs.operators.patches import overlap_add
from jaxlstm.programs.operators.registry import Kwargs, register_family, register_operator
from jaxlstm.programs.operators.unary import of_tensor
from jaxlstm.programs.sizes.guards import equal

# torch's normalizations: none, by the root of the size, by the size. NumPy's names differ by direction.
_FORWARD = ("backward", "ortho", "forward")
_INVERSE = ("forward", "ortho", "backward")
_LEAST_ENVELOPE = 1e-11  # torch refuses windows that add up to less


@register_operator("aten.stft.default", "aten.stft.center")
def stft(
    self: Array,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Array | None = None,
    center: bool = False,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Array:
    """Return the Fourier transform of each frame, (batch, frequencies, frames)."""
    hop = n_fft // 4 if hop_length is None else hop_length
    signal = self if self.ndim == 2 else self[None]
    if center:
        signal = jnp.pad(signal, ((0, 0), (n_fft // 2, n_fft // 2)), mode=pad_mode)
    starts = np.arange(0, signal.shape[1] - n_fft + 1, hop)
    frames = signal[:, starts[:, None] + np.arange(n_fft)]
    frames = frames * _window(window, win_length or n_fft, n_fft, signal.dtype)
    is_complex = jnp.issubdtype(signal.dtype, jnp.complexfloating)
    one_sided = not is_complex if onesided is None else onesided
    spectrum = jnp.fft.rfft(frames) if one_sided else jnp.fft.fft(frames)
    spectrum = jnp.swapaxes(spectrum, 1, 2) / (math.sqrt(n_fft) if normalized else 1)
    spectrum = spectrum if self.ndim == 2 else spectrum[0]
    stays_complex = is_complex if return_complex is None else return_complex
    return spectrum if stays_complex else view_as_real(spectrum)


@register_operator("aten.istft.default")
def istft(
    self: Array,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Array | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Array:
    """Return the signal whose frames have the Fourier transforms (batch, frequencies, frames)."""
    hop = n_fft // 4 if hop_length is None else hop_length
    one_sided = not equal(self.shape[-2], n_fft) if onesided is None else onesided
    _require_spectrum(self, n_fft, hop, one_sided, return_complex)
    spectrum, norm = jnp.swapaxes(self, -2, -1), "ortho" if normalized else "backward"
    if return_complex:
        frames = jnp.fft.ifft(spectrum, norm=norm)
    else:
        frames = jnp.fft.irfft(spectrum[..., : n_fft // 2 + 1], n_fft, norm=norm)
    factors = _window(window, win_length or n_fft, n_fft, frames.real.dtype)
    signal = overlap_add(frames * factors, hop)
    envelope = overlap_add(jnp.broadcast_to(jnp.square(factors), frames.shape[-2:]), hop)
    size = signal.shape[-1]
    start = n_fft // 2 if center else 0
    end = size - start if length is None else start + length
    inner = signal[..., start:end] / _nonzero(envelope[start:end])
    return jnp.pad(inner, [(0, 0)] * (inner.ndim - 1) + [(0, max(end - size, 0))])


def _require_spectrum(spectrum: Array, n_fft: int, hop: int, one_sided: bool, return_complex: bool) -> None:
    """Raise if a spectrum does not have the frequencies that ``n_fft`` gives."""
    frequencies = n_fft // 2 + 1 if one_sided else n_fft
    if spectrum.ndim not in (2, 3) or spectrum.shape[-2] != frequencies or not spectrum.size:
        raise ValueError(
            f"istft with n_fft {n_fft} needs a spectrum (batch, {frequencies}, frames), got shape "
            f"{spectrum.shape}"
        )
    if hop < 1:
        raise ValueError(f"hop_length must be at least 1, got {hop}")
    if return_complex and one_sided:
        raise ValueError("return_complex needs all frequencies: onesided=False")


def _nonzero(envelope: Array) -> Array:
    """Return the sum of the squared windows; where it is 0, raise, or return NaN if it is not known."""
    is_zero = jnp.abs(envelope) < _LEAST_ENVELOPE
    if not isinstance(is_zero, Tracer) and is_zero.any():
        raise ValueError("the windows of istft add up to 0 at some samples, which no frame then determines")
    return jnp.where(is_zero, jnp.nan, envelope)


def _window(window: Array | None, length: int, n_fft: int, dtype: Any) -> Array:
    """Return the window, centred among ``n_fft`` elements."""
    before = (n_fft - length) // 2
    window = jnp.ones(length, dtype) if window is None else window
    return jnp.pad(window, (before, n_fft - length - before))


def _fft(
    transform: Callable[..., Array], self: Array, n: int | None = None, dim: int = -1, norm: str | None = None
) -> Array:
    return transform(self, n, dim, norm)


def _fft2(
    transform: Callable[..., Array],
    self: Array,
    s: Sequence[int] | None = None,
    dim: Sequence[int] = (-2, -1),
    norm: str | None = None,
) -> Array:
    return transform(self, s, dim, norm)


def _fftn(
    transform: Callable[..., Array],
    self: Array,
    s: Sequence[int] | None = None,
    dim: Sequence[int] | None = None,
    norm: str | None = None,
) -> Array:
    return transform(self, s, dim, norm)


def _shift(transform: Callable[..., Array], self: Array, dim: Sequence[int] | None = None) -> Array:
    return transform(self, dim)


# torch's transform of two axes takes others, too.
for _function, _suffix, _of_jax in ((_fft, "", ""), (_fft2, "2", "n"), (_fftn, "n", "n")):
    _kinds = ("", "i", "r", "ir")
    register_family(
        _function, {f"fft_{kind}fft{_suffix}": getattr(jnp.fft, f"{kind}fft{_of_jax}") for kind in _kinds}
    )
register_family(_shift, {f"fft_{name}": getattr(jnp.fft, name) for name in ("fftshift", "ifftshift")})


@register_operator("aten._fft_r2c.default")
def fft_r2c(self: Array, dim: Sequence[int], normalization: int, onesided: bool) -> Array:
    """Return the Fourier transform of a real array along axes; ``onesided`` keeps half of the last one."""
    transform = jnp.fft.rfftn if onesided else jnp.fft.fftn
    return transform(self, axes=dim, norm=_FORWARD[normalization])


@register_operator("aten._fft_c2r.default")
def fft_c2r(self: Array, dim: Sequence[int], normalization: int, last_dim_size: int) -> Array:
    """Return the real array of a Fourier transform along axes, half of the last one."""
    sizes = (*(self.shape[place] for place in dim[:-1]), last_dim_size)
    return jnp.fft.irfftn(self, sizes, dim, _INVERSE[normalization])


@register_operator("aten._fft_c2c.default")
def fft_c2c(self: Array, dim: Sequence[int], normalization: int, forward: bool) -> Array:
    """Return the Fourier transform along axes, or its inverse."""
    if forward:
        return jnp.fft.fftn(self, axes=dim, norm=_FORWARD[normalization])
    return jnp.fft.ifftn(self, axes=dim, norm=_INVERSE[normalization])


def _complex_back(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    return view_as_real(view)


@register_operator("aten.view_as_real.default", write_back=lambda base, view, *_: view_as_complex(view))
def view_as_real(self: Array) -> Array:
    """Return real and imaginary parts in a new last axis."""
    return jnp.stack([self.real, self.imag], -1)


@register_operator("aten.view_as_complex.default", write_back=_complex_back)
def view_as_complex(self: Array) -> Array:
    """Return the pairs of the last axis as complex numbers."""
    return jax.lax.complex(self[..., 0], self[..., 1])


@register_operator("aten.real.default", write_back=lambda base, view, *_: jax.lax.complex(view, base.imag))
def real(self: Array) -> Array:
    """Return the real part."""
    return self.real


@register_operator("aten.imag.default", write_back=lambda base, view, *_: jax.lax.complex(base.real, view))
def imag(self: Array) -> Array:
    """Return the imaginary part."""
    return self.imag


register_family(of_tensor, {"conj_physical": jnp.conj})


@register_operator("aten.complex.default")
def complex_(real: Array, imag: Array) -> Array:
    """Return the complex number with two parts."""
    return jax.lax.complex(*jnp.broadcast_arrays(real, imag))


@register_operator("aten.polar.default")
def polar(abs: Array, angle: Array) -> Array:
    """Return the complex number with an absolute value and an angle."""
    return complex_(abs * jnp.cos(angle), abs * jnp.sin(angle))


@register_operator("aten.angle.default")
def angle(self: Array) -> Array:
    """Return the angle of a complex number, pi for a negative number; its gradient is 0 at 0."""
    if not jnp.iscomplexobj(self):
        x = as_float(self)
        return jnp.where(jnp.isnan(x), x, jnp.where(x < 0, jnp.pi, 0).astype(x.dtype))
    is_zero = self == 0
    away = jnp.where(is_zero, 1, self)
    return jnp.where(is_zero, jnp.angle(jax.lax.stop_gradient(self)), jnp.angle(away))
