"""Names, shapes and gate order of an LSTM's parameters, which are torch's.

The gates in every 4H axis are in the order i, f, g, o (input, forget, candidate, output). The parameters of
layer k have the suffix ``_l{k}``, or ``_l{k}_reverse`` for the reverse direction. Parameters of a cell have
no suffix.

=============  ===================  ======================================================
name           shape                in the equations
=============  ===================  ======================================================
``weight_ih``  (4H, input of k)     W_ih: rows W_ii, W_if, W_ig, W_io
``weight_hh``  (4H, h_size)         W_hh: rows W_hi, W_hf, W_hg, W_ho
``bias_ih``    (4H,)                b_ih, with ``bias``
``bias_hh``    (4H,)                b_hh, with ``bias``; separate, so that it can be saved
``weight_hr``  (proj_size, H)       W_hr, with ``proj_size > 0``
=============  ===================  ======================================================

A torch state dict is a valid parameter tree. Conversion checks names and shapes, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxlstm.layer.config import GRUCellConfig, LayerConfig, LSTMCellConfig, LSTMConfig, require_config

if TYPE_CHECKING:
    import jax

Params = dict[str, Any]
"""A dict of parameter names and arrays."""

Config = TypeVar("Config", bound=LayerConfig)


def suffix(config: LayerConfig, layer: int, direction: int) -> str:
    """Return the suffix of torch's parameter names for a layer and direction (1 is the reverse)."""
    if isinstance(config, LSTMCellConfig | GRUCellConfig):
        return ""
    return f"_l{layer}" + ("_reverse" if direction else "")


def direction_shapes(config: LayerConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of one direction, without suffix, in torch's order."""
    rows = len(config.gates) * config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, config.layer_input_size(layer)),
        "weight_hh": (rows, config.h_size),
    }
    if config.bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if config.h_size != config.hidden_size:
        shapes |= {"weight_hr": (config.h_size, config.hidden_size)}
    return shapes


def param_shapes(config: LayerConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter, in the order of torch's ``state_dict``.

    >>> jaxlstm.param_shapes(jaxlstm.LSTMConfig(3, 5))
    {'weight_ih_l0': (20, 3), 'weight_hh_l0': (20, 5), 'bias_ih_l0': (20,), 'bias_hh_l0': (20,)}
    """
    return {
        name + suffix(config, layer, direction): shape
        for layer in range(config.num_layers)
        for direction in range(config.num_directions)
        for name, shape in direction_shapes(config, layer).items()
    }


def config_of_weights(
    make: type[Config],
    shapes: Sequence[tuple[int, ...]],
    *,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool = False,
    **others: Any,
) -> Config:
    """Return the config of a layer from the arguments of torch's operator, which takes a list of weights."""
    per_direction = len(shapes) // (num_layers * (1 + bidirectional))
    if per_direction == 3 + 2 * has_biases:
        others["proj_size"] = shapes[1][1]
    return make(
        input_size=shapes[0][1],
        hidden_size=shapes[0][0] // len(make.gates),
        num_layers=num_layers,
        bias=has_biases,
        batch_first=batch_first,
        bidirectional=bidirectional,
        **others,
    )


def direction_params(params: Mapping[str, Any], config: LayerConfig, layer: int, direction: int) -> Params:
    """Return the parameters of one direction of one layer, without suffix."""
    end = suffix(config, layer, direction)
    return {name: params[name + end] for name in direction_shapes(config, layer)}


def init_bound(config: LayerConfig) -> float:
    """Return the bound of torch's initial distribution, U(-1/sqrt(H), 1/sqrt(H))."""
    return config.hidden_size**-0.5


def init_params(key: jax.Array, config: LayerConfig, *, dtype: Any = np.float32) -> Params:
    """Initialize parameters from torch's distribution, U(-1/sqrt(H), 1/sqrt(H)).

    Args:
      key: a JAX random key. It does not reproduce the numbers of ``torch.manual_seed``.
      config: the LSTM.
      dtype: float16, bfloat16, float32 or float64 (which needs JAX's 64-bit mode).

    Returns:
      A dict with the names and shapes of :func:`param_shapes`.

    >>> params = jaxlstm.init_params(jax.random.key(0), jaxlstm.LSTMConfig(3, 5))
    >>> params["weight_hh_l0"].shape
    (20, 5)
    """
    import jax

    from jaxlstm.layer.precision import require_dtype

    dtype = require_dtype("dtype", dtype)
    shapes = param_shapes(config)
    bound = init_bound(config)
    require_key("key", key)
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(leaf_key, shape, dtype, -bound, bound)
        for leaf_key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def require_key(name: str, key: Any) -> None:
    """Raise a TypeError if ``key`` is not an array, as a JAX random key is, but a seed for example."""
    if not hasattr(key, "dtype"):
        seed = key if isinstance(key, int) else 0
        raise TypeError(f"{name} must be a JAX random key, got {key!r}; pass jax.random.key({seed})")


def shape_mismatches(
    shapes: Mapping[str, tuple[int, ...]], config: LayerConfig, *, prefix: str = ""
) -> list[str]:
    """List every missing, unexpected and misshapen parameter; ``prefix`` is put before each name."""
    expected = param_shapes(config)
    missing = [f"missing {prefix}{name} {shape}" for name, shape in expected.items() if name not in shapes]
    unexpected = [
        f"unexpected {prefix}{name} {shape}" for name, shape in shapes.items() if name not in expected
    ]
    misshapen = [
        f"{prefix}{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return missing + unexpected + misshapen


def check_params(params: Mapping[str, Any], config: LayerConfig) -> None:
    """Raise unless ``params`` are the parameters of ``config``."""
    if not isinstance(config, LayerConfig):
        require_config(config)
    require_mapping(params)
    shapes = {name: tuple(np.shape(array)) for name, array in params.items()}
    problems = shape_mismatches(shapes, config)
    if not problems:
        return
    first = next(iter(param_shapes(config)))
    prefixes = [name.removesuffix(first) for name in shapes if name.endswith(f".{first}")]
    if first not in shapes and prefixes:
        select = f"prefix={prefixes[0]!r}"
        raise ValueError(
            f"params must be the parameters of one LSTM, got a state dict of {len(shapes)} tensors, in which "
            f"they are under {' or '.join(map(repr, prefixes))}; select them by jaxlstm.from_torch(params, "
            f"{select}) or jaxlstm.load(path, {select})"
        )
    raise ValueError(f"params do not fit {config}: {'; '.join(problems)}{_other_layer(shapes, config)}")


def require_mapping(params: Any) -> None:
    """Raise a TypeError if ``params`` is not a mapping."""
    if not isinstance(params, Mapping):
        shape = getattr(params, "shape", None)
        kind = type(params).__name__ if shape is None else f"an array of shape {tuple(shape)}"
        raise TypeError(
            f"params must be a mapping of torch's parameter names to arrays, got {kind}; jaxlstm.load and "
            "jaxlstm.from_torch return one"
        )


def _other_layer(names: Collection[str], config: LayerConfig) -> str:
    """Return advice if an LSTM's names meet a cell's config, or a cell's names an LSTM's config."""
    if isinstance(config, LSTMCellConfig) and "weight_ih_l0" in names:
        return (
            ". These are the parameters of an LSTM: run them with LSTM, or remove the suffix '_l0' from the "
            "names to run the first layer as an LSTMCell"
        )
    if type(config) is LSTMConfig and "weight_ih" in names:
        return ". These are the parameters of an LSTMCell: pass an LSTMCellConfig"
    return ""
