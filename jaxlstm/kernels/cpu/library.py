"""The shared library of the CPU kernel: find it, load it and register its functions with XLA.

The library is the file of an optional extension module without a Python interface. It is built with the wheel
if a C++ compiler is available. It contains each kernel for several instruction sets and selects the best one
that the processor supports.
"""

import ctypes
import importlib.machinery
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SWITCH = "JAXLSTM_NATIVE"
"""Environment variable; 0 turns the kernel off."""

AMX_SWITCH = "JAXLSTM_AMX"
"""Environment variable; 0 turns AMX off. It must be set before the first use of the kernel."""

OFF = ("0", "false", "off", "no")

NOT_BUILT = "not built: " + (
    "the kernel requires GCC or Clang and does not support Windows"
    if os.name == "nt"
    else "no C++ compiler was found when jaxlstm was installed, or compilation failed; install g++ or "
    "clang++, then reinstall jaxlstm"
)

TARGETS = (
    "jaxlstm_forward",
    "jaxlstm_forward_both",
    "jaxlstm_backward",
    "jaxlstm_gradients",
    "jaxlstm_convolve",
    "jaxlstm_normalize",
    "jaxlstm_layer",
)

INTERFACE = 11
"""The version of the interface of the library, ``jaxlstm_interface`` in python.cc."""

DTYPE_NUMBERS = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
"""The dtypes of the kernel, with their numbers in calls from ctypes (python.cc)."""


class Library(NamedTuple):
    """The loaded library. ``handle`` is None if it is unavailable, and ``reason`` says why."""

    handle: ctypes.CDLL | None
    reason: str

    @property
    def instruction_set(self) -> str:
        """The name of the instruction set in use, one of those in instruction_sets.h."""
        assert self.handle is not None
        return self.handle.jaxlstm_instruction_set().decode()

    def product_dtype(self, dtype: Any) -> np.dtype:
        """Return the dtype in which products of ``dtype`` are computed: it, or float32 for half precision."""
        name = jnp.dtype(dtype).name
        assert self.handle is not None
        is_half = name in ("bfloat16", "float16")
        if is_half and not self.handle.jaxlstm_multiplies(DTYPE_NUMBERS[name]):
            return np.dtype(np.float32)
        return jnp.dtype(dtype)


def library() -> Library:
    """Return the library, loaded on the first call. ``JAXLSTM_NATIVE=0`` in the environment turns it off."""
    if _is_off(SWITCH):
        return Library(None, f"turned off by the environment variable {SWITCH}")
    return _loaded()


def _is_off(switch: str) -> bool:
    return os.environ.get(switch, "1").strip().lower() in OFF


@lru_cache(maxsize=1)
def _loaded() -> Library:
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    folder = Path(__file__).parent
    path = next((p for s in suffixes if (p := folder / f"_native{s}").exists()), None)
    if path is None:
        return Library(None, NOT_BUILT)
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(None, f"failed to load: {error}")
    version = handle.jaxlstm_interface() if hasattr(handle, "jaxlstm_interface") else 0
    if version != INTERFACE:
        return Library(
            None, f"built from other sources (interface {version}, not {INTERFACE}): reinstall jaxlstm"
        )
    try:
        # Before XLA's CPU backend starts, it accepts any registration, and calls fail later.
        jax.devices("cpu")
    except RuntimeError:
        return Library(None, "JAX has no CPU device because jax_platforms (JAX_PLATFORMS) excludes it")
    try:
        _register(handle)
    except jax.errors.JaxRuntimeError as error:  # XLA's FFI has another version
        cause = str(error).splitlines()[0]
        return Library(None, f"built for a version of JAX other than {jax.__version__}: {cause}")
    if _is_off(AMX_SWITCH) and Library(handle, "").instruction_set in ("amx", "amx_float16"):
        handle.jaxlstm_use_instruction_set(b"avx512_bf16")  # which every processor with AMX has
    return Library(handle, f"loaded from {path}")


def _register(handle: ctypes.CDLL) -> None:
    """Declare the functions to ctypes and register the kernels with XLA."""
    handle.jaxlstm_instruction_set.restype = ctypes.c_char_p
    handle.jaxlstm_prepared_size.restype = ctypes.c_int64
    handle.jaxlstm_use_instruction_set.restype = ctypes.c_bool
    handle.jaxlstm_use_instruction_set.argtypes = [ctypes.c_char_p]
    handle.jaxlstm_multiplies.restype = ctypes.c_bool
    handle.jaxlstm_run_stack.restype = ctypes.c_bool
    pointer = ctypes.c_void_p
    handle.jaxlstm_run_stack.argtypes = [pointer, ctypes.c_int64, pointer, pointer, pointer]
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(handle, target)), platform="cpu")
