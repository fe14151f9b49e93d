"""The short-time Fourier transform, and complex numbers as pairs of real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.models.operators.registry import register_operator

Kwargs = Mapping[str, Any]


@register_operator("aten.stft.default", "aten.stft.center")
def stft(
    self: jax.Array,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: jax.Array | None = None,
    center: bool = False,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> jax.Array:
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
    return spectrum if return_complex else view_as_real(spectrum)


def _window(window: jax.Array | None, length: int, n_fft: int, dtype: Any) -> jax.Array:
    """Return the window, centred among ``n_fft`` elements."""
    before = (n_fft - length) // 2
    window = jnp.ones(length, dtype) if window is None else window
    return jnp.pad(window, (before, n_fft - length - before))


def _real_pairs_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return view_as_complex(view)


def _complex_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return view_as_real(view)


def _real_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jax.lax.complex(view, base.imag)


def _imag_back(base: jax.Array, view: jax.Array, index: int, kwargs: Kwargs) -> jax.Array:
    return jax.lax.complex(base.real, view)


@register_operator("aten.view_as_real.default", write_back=_real_pairs_back)
def view_as_real(self: jax.Array) -> jax.Array:
    """Return real and imaginary parts in a new last axis."""
    return jnp.stack([self.real, self.imag], -1)


@register_operator("aten.view_as_complex.default", write_back=_complex_back)
def view_as_complex(self: jax.Array) -> jax.Array:
    """Return the pairs of the last axis as complex numbers."""
    return jax.lax.complex(self[..., 0], self[..., 1])


@register_operator("aten.real.default", write_back=_real_back)
def real(self: jax.Array) -> jax.Array:
    """Return the real part."""
    return self.real


@register_operator("aten.imag.default", write_back=_imag_back)
def imag(self: jax.Array) -> jax.Array:
    """Return the imaginary part."""
    return self.imag


@register_operator("aten.fft_rfft.default")
def fft_rfft(self: jax.Array, n: int | None = None, dim: int = -1, norm: str | None = None) -> jax.Array:
    """Return the Fourier transform of a real signal along an axis."""
    return jnp.fft.rfft(self, n, dim, norm)


@register_operator("aten.fft_irfft.default")
def fft_irfft(self: jax.Array, n: int | None = None, dim: int = -1, norm: str | None = None) -> jax.Array:
    """Return the real signal of a Fourier transform along an axis."""
    return jnp.fft.irfft(self, n, dim, norm)
