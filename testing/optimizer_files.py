"""Create torch optimizers for checkpoints, and load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch

from jaxlstm import load, load_optimizer


def write(path: Path, model: torch.nn.Module, *optimizers: Any) -> None:
    """Save a model at "m" and the state dicts of its optimizers at "o.0", "o.1" and so on."""
    torch.save({"m": model.state_dict(), "o": list(optimizers)}, path)


def reload(path: Path, **arguments: Any) -> Any:
    """Load the optimizer of an LSTM in a file, in the stored dtype."""
    with jax.enable_x64(True):
        params, config = load(path, prefix=arguments.get("prefix"), batch_first=False, dropout=0.0)
        return load_optimizer(path, params, config, **arguments)


def stepped(
    modules: list[torch.nn.Module] | None = None,
    make: Any = torch.optim.Adam,
    groups: list[dict[str, Any]] | None = None,
    **arguments: Any,
) -> Any:
    """Return the state dict of an optimizer after a step with random gradients."""
    optimizer = make(groups or [p for m in modules or [] for p in m.parameters()], **arguments)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer.state_dict()


def moments(opt: Any, name: str, field: str = "mu") -> np.ndarray:
    return np.asarray(optax.tree_utils.tree_get(opt.state, field)[name])
