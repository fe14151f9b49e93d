"""torch.optim's Adam, AdamW, SGD and RMSprop as optax transformations whose state is torch's.

Where optax's own ``adamw``, ``sgd`` and ``rmsprop`` differ from torch:

- RMSprop: ``eps`` is outside of the root, and the momentum is that of updates before the learning rate.
- SGD: dampening scales the gradient that goes into the momentum, but not the first one.
- ``amsgrad``: torch takes the maximum of second moments and then corrects its bias, optax the other way
  round, so that one is written out here.
- ``maximize`` turns the gradient's sign before weight decay is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import optax


class Rule(NamedTuple):
    """An optimizer in optax.

    ``moments`` are the fields of the state that torch has under other names: optax's -> torch's.
    ``counted`` says whether the state counts steps; ``first_differs`` whether torch's first step of a
    parameter is another than the following ones.
    """

    transform: optax.GradientTransformation
    moments: dict[str, str]
    counted: bool = False
    first_differs: bool = False


# The hyper-parameters that a group has, and by which it is told.
_ADAM = {"lr", "betas.0", "betas.1", "eps", "weight_decay", "amsgrad"}
_SGD = {"lr", "momentum", "dampening", "weight_decay", "nesterov"}
_RMSPROP = {"lr", "alpha", "eps", "weight_decay", "momentum", "centered"}
# How torch computes a step, what learning rate schedulers note, and a name: they change no number.
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
    """The hyper-parameters without those that change no number."""
    return {name: value for name, value in hyper.items() if name not in _IGNORED}


def rule(hyper: Mapping[str, Any], decoupled_weight_decay: bool | None) -> Rule:
    """The optimizer that these hyper-parameters are of.

    Raises:
      ValueError: they are those of another optimizer, or of Adam and AdamW alike.
    """
    names = set(relevant(hyper)) - {"maximize"}
    if names - {"decoupled_weight_decay"} == _ADAM:
        return _adam(hyper, decoupled_weight_decay)
    if names == _SGD:
        return _sgd(hyper)
    if names == _RMSPROP:
        return _rmsprop(hyper)
    kind = next((kind for marker, kind in _OTHERS.items() if marker in names), "another optimizer")
    if any(known <= names for known in (_ADAM, _SGD, _RMSPROP)):
        kind = "an optimizer that torch.optim has not"
    raise ValueError(
        f"is {kind} by its hyper-parameters {', '.join(sorted(names))}; "
        "Adam, AdamW, SGD and RMSprop can be mapped"
    )


def _adam(hyper: Mapping[str, Any], decoupled_weight_decay: bool | None) -> Rule:
    import optax

    decay = hyper["weight_decay"]
    decoupled = hyper.get("decoupled_weight_decay", decoupled_weight_decay)
    if decoupled_weight_decay not in (None, decoupled):
        raise ValueError(
            f"has decoupled_weight_decay={decoupled} in the file; leave the argument out"
        )
    if decay and decoupled is None:
        raise ValueError(
            f"is Adam or AdamW, which the file does not tell (torch writes it since 2.7), and has "
            f"weight_decay={decay}; pass decoupled_weight_decay=True for AdamW, False for Adam"
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
    return Rule(
        _chain(hyper, parts),
        {"trace": "momentum_buffer"},
        first_differs=bool(hyper["dampening"]),
    )


def _rmsprop(hyper: Mapping[str, Any]) -> Rule:
    import optax

    moments = {"nu": "square_avg"}
    scale_by = optax.scale_by_rms
    if hyper["centered"]:
        moments["mu"] = "grad_avg"
        scale_by = optax.scale_by_stddev
    parts = [
        *_weight_decay(hyper),
        scale_by(decay=hyper["alpha"], eps=hyper["eps"], eps_in_sqrt=False),
    ]
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
    """torch/optim/adam.py with ``amsgrad=True``, on optax's state."""
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
            of_mu, of_nu = ((1 - beta**count).astype(m.dtype) for beta in (b1, b2))
            return m / of_mu / (jnp.sqrt(v / of_nu) + eps)

        return jax.tree.map(step, mu, nu_max), optax.ScaleByAmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(optax.scale_by_amsgrad().init, update)
