"""The version, apart, so that the build reads it without importing jax."""

__version__ = "0.3.0.dev0"
