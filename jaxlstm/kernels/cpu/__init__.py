"""The native kernel for CPUs: C++ in ``src/``, called through XLA's foreign function interface."""
