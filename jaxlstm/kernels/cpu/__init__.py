"""The native CPU kernel: C++ in ``src/``, called through XLA's foreign function interface (FFI)."""
