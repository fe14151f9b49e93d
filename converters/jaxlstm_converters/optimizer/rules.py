"""torch.optim's Adam, AdamW, SGD and RMSprop as optax transformations with the same state.

torch differs from optax's ``adamw``, ``sgd`` and ``rmsprop``:

- RMSprop adds ``eps`` outside of the root, and applies momentum before the learning rate.
- SGD's dampening scales the gradients that enter the momentum, except for the first.
- ``amsgrad`` takes the maximum of the second moments before the bias correction; optax takes it after. The
  torch version is implemented here.
- ``maximize`` negates the gradient before weight decay is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import optax


class Rule(NamedTuple):
    """An optax optimizer and the correspondence of its state to torch's.

    Attributes:
      moments: optax's name of a state field -> torch's name.
      counted: the state counts steps.
      first_differs: torch's first step of a parameter differs from the later ones.
    """

    transform: optax.GradientTransformation
    moments: dict[str, str]
    counted: bool = False
    first_differs: bool = False


# The hyperparameters of a group identify the optimizer.
_ADAM = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "amsgrad"}
_SGD = {"lr", "momentum", "dampening", "weight_decay", "nesterov"}
_RMSPROP = {"lr", "alpha", "eps", "weight_decay", "momentum", "centered"}
# Implementation choices, values that learning rate schedulers record, and names do not change a step.
_IGNORED = {"foreach", "capturable", "differentiable", "fused", "name"}
_IGNORED |= {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
_OTHERS = {
    "lr_decay": "Adagrad",
    "momentum_decay": "NAdam",
    "rho": "Adadelta",
    "lambd": "ASGD",
    "etas.0": "Rprop",
    "history_size": "LBFGS",
    "betas.0": "Adamax or RAdam",
}


def relevant(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that affect a step."""
    return {name: value for name, value in hyper.items() if name not in _IGNORED}


def rule(hyper: Mapping[str, Any], decoupled_weight_decay: bool | None) -> Rule:
    """Return the optimizer with these hyperparameters."""
    import optax

    names = set(relevant(hyper)) - {"maximize"}
    is_adam = names - {"decoupled_weight_decay"} == _ADAM
    if not is_adam and names not in (_SGD, _RMSPROP):
        kind = next((kind for marker, kind in _OTHERS.items() if marker in names), "another optimizer")
        if any(required <= names for required in (_ADAM, _SGD, _RMSPROP)):
            kind = "not an optimizer of torch.optim"
        raise ValueError(
            f"is {kind} according to its hyperparameters {', '.join(sorted(names))}; "
            "only Adam, AdamW, SGD and RMSprop are supported"
        )
    decay = hyper["weight_decay"]
    parts = [optax.add_decayed_weights(decay)] if decay else []
    moments, first_differs = dict[str, str](), False
    if is_adam:
        moments = {"mu": "exp_avg", "nu": "exp_avg_sq"}
        scale_by = optax.scale_by_adam
        if hyper["amsgrad"]:
            moments["nu_max"] = "max_exp_avg_sq"
            scale_by = _scale_by_amsgrad
        scaled = scale_by(b1=hyper["betas.0"], b2=hyper["betas.1"], eps=hyper["eps"])
        parts = [scaled, *parts] if _is_decoupled(hyper, decoupled_weight_decay) else [*parts, scaled]
    if names == _RMSPROP:
        moments = {"nu": "square_avg", **({"mu": "grad_avg"} if hyper["centered"] else {})}
        scale_by = optax.scale_by_stddev if hyper["centered"] else optax.scale_by_rms
        parts.append(scale_by(decay=hyper["alpha"], eps=hyper["eps"], eps_in_sqrt=False))
    if hyper.get("momentum"):
        moments["trace"] = "momentum_buffer"
        if first_differs := bool(hyper.get("dampening")):
            parts.append(optax.scale(1 - hyper["dampening"]))
        parts.append(optax.trace(hyper["momentum"], nesterov=hyper.get("nesterov", False)))
    ascent = [optax.scale(-1.0)] if hyper.get("maximize") else []
    transform = optax.chain(*ascent, *parts, optax.scale_by_learning_rate(hyper["lr"]))
    return Rule(transform, moments, counted=is_adam, first_differs=first_differs)


def _is_decoupled(hyper: Mapping[str, Any], decoupled_weight_decay: bool | None) -> bool | None:
    """Return True for AdamW, False for Adam, and None where they do the same."""
    decay = hyper["weight_decay"]
    decoupled = hyper.get("decoupled_weight_decay", decoupled_weight_decay)
    if decoupled_weight_decay not in (None, decoupled):
        raise ValueError(f"has decoupled_weight_decay={decoupled} in the file; omit the argument")
    if decay and decoupled is None:
        raise ValueError(
            f"has weight_decay={decay}, but the file does not record whether it is Adam or AdamW "
            "(torch does since 2.7); pass decoupled_weight_decay=True for AdamW, False for Adam"
        )
    return decoupled


def _scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Return Adam with ``amsgrad=True`` as in torch/optim/adam.py, with optax's state."""
    import jax
    import jax.numpy as jnp
    import optax

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g**2, updates, state.nu)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)

        def step(m: Any, v: Any) -> Any:
            mu_correction, nu_correction = ((1 - beta**count).astype(m.dtype) for beta in (b1, b2))
            return m / mu_correction / (jnp.sqrt(v / nu_correction) + eps)

        return jax.tree.map(step, mu, nu_max), optax.ScaleByAmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(optax.scale_by_amsgrad().init, update)
