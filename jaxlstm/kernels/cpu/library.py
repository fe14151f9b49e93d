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
NOT_BUILT = "not built: " + (
    "it is written for GCC and Clang, and there is none for Windows"
    if os.name == "nt"
    else "when jaxlstm was installed no C++ compiler was found, or it failed; install g++ or clang++, "
    "then jaxlstm again"
)
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
    if _is_off(SWITCH):
        return Library(None, f"turned off by the environment variable {SWITCH}")
    return _loaded()


def _is_off(switch: str) -> bool:
    return os.environ.get(switch, "1").strip().lower() in OFF


@lru_cache(maxsize=1)
def _loaded() -> Library:
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    here = Path(__file__).parent
    path = next((p for s in suffixes if (p := here / f"_native{s}").exists()), None)
    if path is None:
        return Library(None, NOT_BUILT)
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(None, f"cannot be loaded: {error}")
    try:
        jax.devices("cpu")  # until XLA runs, it accepts anything, and fails later
    except RuntimeError:
        return Library(None, "JAX has no CPU here; its jax_platforms (JAX_PLATFORMS) leave it out")
    try:
        _declare(handle)
    except AttributeError as error:  # a checkout went on without a new build
        return Library(None, f"built from other sources than these, build it again: {error}")
    except jax.errors.JaxRuntimeError as error:  # another version of XLA's interface
        return Library(
            None, f"built with another JAX than {jax.__version__}: {str(error).splitlines()[0]}"
        )
    if _is_off(AMX_SWITCH) and Library(handle, "").instruction_set == "amx":
        handle.jaxlstm_use_instruction_set(b"avx512")
    return Library(handle, f"loaded from {path}")


def _declare(handle: ctypes.CDLL) -> None:
    """Tell ctypes of the functions, and XLA of the kernels."""
    handle.jaxlstm_instruction_set.restype = ctypes.c_char_p
    handle.jaxlstm_prepared_size.restype = ctypes.c_int64
    handle.jaxlstm_use_instruction_set.restype = ctypes.c_bool
    handle.jaxlstm_use_instruction_set.argtypes = [ctypes.c_char_p]
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(handle, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")
