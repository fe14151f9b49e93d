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
    names = set(relevant(hyper)) - {"maximize"}
    if names - {"decoupled_weight_decay"} == _ADAM:
        return _adam(hyper, decoupled_weight_decay)
    if names == _SGD:
        return _sgd(hyper)
    if names == _RMSPROP:
        return _rmsprop(hyper)
    kind = next((kind for marker, kind in _OTHERS.items() if marker in names), "another optimizer")
    if any(required <= names for required in (_ADAM, _SGD, _RMSPROP)):
        kind = "not an optimizer of torch.optim"
    raise ValueError(
        f"is {kind} according to its hyperparameters {', '.join(sorted(names))}; "
        "only Adam, AdamW, SGD and RMSprop are supported"
    )


def _adam(hyper: Mapping[str, Any], decoupled_weight_decay: bool | None) -> Rule:
    import optax

    decay = hyper["weight_decay"]
    decoupled = hyper.get("decoupled_weight_decay", decoupled_weight_decay)
    if decoupled_weight_decay not in (None, decoupled):
        raise ValueError(f"has decoupled_weight_decay={decoupled} in the file; omit the argument")
    if decay and decoupled is None:
        raise ValueError(
            f"has weight_decay={decay}, but the file does not record whether it is Adam or AdamW "
            "(torch does since 2.7); pass decoupled_weight_decay=True for AdamW, False for Adam"
        )
    moments = {"mu": "exp_avg", "nu": "exp_avg_sq"}
    scale_by = optax.scale_by_adam
    if hyper["amsgrad"]:
        moments["nu_max"] = "max_exp_avg_sq"
        scale_by = _scale_by_amsgrad
    scaled = scale_by(b1=hyper["betas.0"], b2=hyper["betas.1"], eps=hyper["eps"])
    decayed = _weight_decay(hyper)
    parts = [scaled, *decayed] if decoupled else [*decayed, scaled]
    return Rule(_chain(hyper, parts), moments, counted=True)


def _sgd(hyper: Mapping[str, Any]) -> Rule:
    import optax

    parts = _weight_decay(hyper)
    if not hyper["momentum"]:
        return Rule(_chain(hyper, parts), {})
    if hyper["dampening"]:
        parts.append(optax.scale(1 - hyper["dampening"]))
    parts.append(optax.trace(hyper["momentum"], nesterov=hyper["nesterov"]))
    return Rule(_chain(hyper, parts), {"trace": "momentum_buffer"}, first_differs=bool(hyper["dampening"]))


def _rmsprop(hyper: Mapping[str, Any]) -> Rule:
    import optax

    moments = {"nu": "square_avg"}
    scale_by = optax.scale_by_rms
    if hyper["centered"]:
        moments["mu"] = "grad_avg"
        scale_by = optax.scale_by_stddev
    parts = [*_weight_decay(hyper), scale_by(decay=hyper["alpha"], eps=hyper["eps"], eps_in_sqrt=False)]
    if hyper["momentum"]:
        moments["trace"] = "momentum_buffer"
        parts.append(optax.trace(hyper["momentum"]))
    return Rule(_chain(hyper, parts), moments)


def _weight_decay(hyper: Mapping[str, Any]) -> list[optax.GradientTransformation]:
    import optax

    decay = hyper["weight_decay"]
    return [optax.add_decayed_weights(decay)] if decay else []


def _chain(
    hyper: Mapping[str, Any], parts: list[optax.GradientTransformation]
) -> optax.GradientTransformation:
    import optax

    ascent = [optax.scale(-1.0)] if hyper.get("maximize") else []
    return optax.chain(*ascent, *parts, optax.scale_by_learning_rate(hyper["lr"]))


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
