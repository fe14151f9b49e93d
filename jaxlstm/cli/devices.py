"""The device that an option names."""

from __future__ import annotations

from typing import Any


def require_device(option: str, platform: str | None) -> Any:
    """JAX's first device of a platform, or of the one it takes by itself if None.

    Raises:
      ValueError: there is none.
    """
    import jax

    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:  # what JAX raises for a platform that it does not have
        raise ValueError(f"{option} {platform}: JAX sees no such device here") from error
