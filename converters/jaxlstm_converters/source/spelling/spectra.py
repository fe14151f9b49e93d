"""Templates of Fourier transforms, and of complex numbers."""

from functools import partial

from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, only_if


def _is_usual(operation: TypedNode) -> bool:
    """Return True if the signal is real, and the window as long as the transform."""
    window, n_fft = operation.type("window"), operation["n_fft"]
    sides = operation["onesided"] is not False
    return sides and window is not None and window.shape == (n_fft,) and operation.is_float("window")


def _transformed(operation: TypedNode) -> str | None:
    """Return the transforms of overlapping frames, the last axis of which are the frames."""
    if not _is_usual(operation) or not operation.is_float() or operation["return_complex"] is not True:
        return None
    operation.extra["hop"] = operation["hop_length"] or operation["n_fft"] // 4
    operation.extra["norm"] = "ortho" if operation["normalized"] else None
    starts = "jnp.arange(0, self.shape[-1] - n_fft + 1, hop)"
    return f"jnp.fft.rfft(self[..., {starts}[:, None] + jnp.arange(n_fft)] * window, norm=norm).mT"


def _restored(operation: TypedNode) -> str | None:
    """Return SciPy's inverse, which multiplies by the sum of the window."""
    own, n_fft, length = operation.type("self"), operation["n_fft"], operation["length"]
    hop = operation["hop_length"] or n_fft // 4
    if own is None or not _is_usual(operation) or not operation["center"] or operation["return_complex"]:
        return None
    frames = own.shape[-1]
    # JAX's result of fewer frames has another size.
    if not isinstance(frames, int) or frames * hop < n_fft:
        return None
    size = (frames - 1) * hop
    if length is not None and (not isinstance(length, int) or length > size):
        return None
    operation.extra["overlap"] = n_fft - hop
    scale = "n_fft ** 0.5 / window.sum() * self" if operation["normalized"] else "self / window.sum()"
    template = f"signal.istft({scale}, window=window, nperseg=n_fft, noverlap=overlap)[1]"
    return template if length in (None, size) else f"{template}[..., :length]"


def _over_axes(name: str, operation: TypedNode) -> str:
    dim = operation["dim"]
    suffix = "2" if dim is not None and len(dim) == 2 else "n"
    return f"jnp.fft.{name}{suffix}(self, s=s, axes=dim, norm=norm)"


_TRANSFORMS = ("fft", "ifft", "rfft", "irfft")
RULES: dict[str, Rule] = {
    **{f"fft_{name}": f"jnp.fft.{name}(self, n=n, axis=dim, norm=norm)" for name in _TRANSFORMS},
    **{f"fft_{name}{suffix}": partial(_over_axes, name) for name in _TRANSFORMS for suffix in "2n"},
    "fft_fftshift": "jnp.fft.fftshift(self, axes=dim)",
    "fft_ifftshift": "jnp.fft.ifftshift(self, axes=dim)",
    "stft": _transformed,
    "istft": _restored,
    "hann_window": only_if(
        lambda op: op.arguments.get("periodic", True) and op.is_float(), "jnp.hanning(window_length + 1)[:-1]"
    ),
    "view_as_complex": "lax.complex(self[..., 0], self[..., 1])",
    "view_as_real": "jnp.stack([self.real, self.imag], axis=-1)",
}
