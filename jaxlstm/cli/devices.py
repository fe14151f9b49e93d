"""The device named by a command-line option."""

from __future__ import annotations

from typing import Any


def require_device(option: str, platform: str | None) -> Any:
    """Return JAX's first device of a platform, or of the default platform if it is None.

    Raises:
      ValueError: if there is no such device.
    """
    import jax

    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:  # JAX raises it for a platform without devices.
        raise ValueError(
            f"{option} {platform}: JAX finds no such device, only {jax.default_backend()}"
        ) from error
