"""The compiled part of the CPU kernel: found, loaded and made known to XLA, once.

It is an optional extension module's file without a Python interface, built with the wheel where there is a
C++ compiler. It holds the same kernels for several instruction sets and picks the best that runs here.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax

SWITCH = "JAXLSTM_NATIVE"  # 0 turns the kernel off
AMX_SWITCH = "JAXLSTM_AMX"  # 0, before the kernel is first used, leaves AMX aside
OFF = ("0", "false", "off", "no")
TARGETS = (
    "jaxlstm_forward",
    "jaxlstm_forward_prepared",
    "jaxlstm_forward_and_differentiate",
    "jaxlstm_backward",
    "jaxlstm_gradients",
)


class Library(NamedTuple):
    """The loaded library, or None and the reason."""

    handle: ctypes.CDLL | None
    reason: str

    @property
    def instruction_set(self) -> str:
        """ "amx", "avx512", "avx2" or "baseline": which of the kernels run."""
        assert self.handle is not None
        return self.handle.jaxlstm_instruction_set().decode()


def library() -> Library:
    """The library in force. The environment variable ``JAXLSTM_NATIVE=0`` turns it off."""
    if os.environ.get(SWITCH, "1").lower() in OFF:
        return Library(None, f"turned off by the environment variable {SWITCH}")
    return _loaded()


@lru_cache(maxsize=1)
def _loaded() -> Library:
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    here = Path(__file__).parent
    path = next((p for s in suffixes if (p := here / f"_native{s}").exists()), None)
    if path is None:
        return Library(None, "not built: there was no C++ compiler when jaxlstm was installed")
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(None, f"cannot be loaded: {error}")
    handle.jaxlstm_instruction_set.restype = ctypes.c_char_p
    handle.jaxlstm_prepared_size.restype = ctypes.c_int64
    handle.jaxlstm_use_instruction_set.restype = ctypes.c_bool
    handle.jaxlstm_use_instruction_set.argtypes = [ctypes.c_char_p]
    try:
        jax.devices("cpu")  # until XLA runs, it accepts anything, and fails later
    except RuntimeError:
        return Library(None, "JAX has no CPU here; its jax_platforms (JAX_PLATFORMS) leave it out")
    try:
        for target in TARGETS:
            capsule = jax.ffi.pycapsule(getattr(handle, target))
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    except jax.errors.JaxRuntimeError as error:  # another version of XLA's interface
        return Library(
            None, f"built with another JAX than {jax.__version__}: {str(error).splitlines()[0]}"
        )
    if (
        os.environ.get(AMX_SWITCH, "1").lower() in OFF
        and Library(handle, "").instruction_set == "amx"
    ):
        handle.jaxlstm_use_instruction_set(b"avx512")
    return Library(handle, f"loaded from {path}")
