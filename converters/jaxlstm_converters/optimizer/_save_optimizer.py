"""Write the state of an optax optimizer as the state of a torch optimizer."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.files import require_folder_of, require_path, require_replaceable, write_atomically
from jaxlstm._shared.imports import import_optional
from jaxlstm_converters.optimizer.state import OptimizerState
from jaxlstm_converters.optimizer.trained import TrainedParameters, dotted_leaves, parameters_of_lstm
from jaxlstm_converters.write.torch_zip import has_marker, torch_object_bytes

# Names of a field in the states of optax -> torch's name.
_FIELDS = {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq", "trace": "momentum_buffer"}


def save_optimizer(
    path: str | os.PathLike[str],
    model: Any,
    optimizer: OptimizerState | Any,
    *,
    names: Mapping[str, str] | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the state of an optax optimizer for ``torch.optim.Optimizer.load_state_dict``.

    The inverse of :func:`jaxlstm.load_optimizer`, for SGD with and without momentum, Adam and AdamW.
    ``torch.load(path)`` returns the state dict.

    >>> jaxlstm.save_optimizer("optimizer.pt", model, optimizer._replace(state=state))  # doctest: +SKIP

    Args:
      path: the file.
      model: the NNX model, the program, or the parameters of one LSTM that the optimizer trains.
      optimizer: an :class:`OptimizerState`, or the state of an optax optimizer for the pytree of parameters
        that :func:`jaxlstm.load_optimizer` describes.
      names: torch prefix -> prefix in the model, as for ``jaxlstm.load_state_dict``.
      groups: the parameter groups: torch's hyperparameters, and ``param_names`` in the order of the torch
        optimizer. ``torch_optimizer.state_dict()["param_groups"]`` is such a list if the optimizer was
        constructed from ``named_parameters()``. None for the groups of an :class:`OptimizerState`.
      overwrite: replace an existing file that jaxlstm did not write.

    Raises:
      ValueError: the groups lack names or do not name the model's parameters, or the state belongs to
        another optimizer than the groups.
      FileExistsError: the file exists and must not be replaced.
    """
    import_optional("optax", "optax")
    require_path(path, "call jaxlstm.save_optimizer(path, model, optimizer)")
    state = optimizer.state if isinstance(optimizer, OptimizerState) else optimizer
    if groups is None:
        groups = optimizer.groups if isinstance(optimizer, OptimizerState) else ()
    if isinstance(model, Mapping):
        trained = parameters_of_lstm(model)
    else:
        # Imported here because it imports flax.
        from jaxlstm_converters.flax.trained import trained_parameters

        trained = trained_parameters(model, names)
    order = _order(groups, trained)
    moments = _moments(state, trained)
    fields = {k: _of_group(group, name, moments.get(name, {})) for k, (group, name) in enumerate(order)}
    named, count = [(group, list(group["param_names"])) for group in groups], itertools.count()
    document = {
        "state": {number: values for number, values in fields.items() if values},
        "param_groups": [
            {**group, "params": [next(count) for _ in names], "param_names": names} for group, names in named
        ],
    }
    path = Path(path)
    require_folder_of(path)
    require_replaceable(path, overwrite=overwrite, is_ours=has_marker)
    write_atomically(path, [torch_object_bytes(document)])


def _order(
    groups: Sequence[Mapping[str, Any]], trained: TrainedParameters
) -> list[tuple[Mapping[str, Any], str]]:
    """Return (group, name) of each parameter of the torch optimizer, in its order."""
    order = [(group, name) for group in groups for name in group.get("param_names", [""])]
    names = [name for _, name in order]
    expected = set(trained.names.values())
    if not groups or "" in names:
        raise ValueError(
            "groups must have the names of all parameters, in the order of the torch optimizer; pass groups="
            "[{'lr': 1e-3, ..., 'param_names': [name for name, _ in model.named_parameters()]}]"
        )
    missing, unknown = sorted(expected - set(names)), sorted(set(names) - expected)
    if missing or unknown or len(names) != len(set(names)):
        raise ValueError(
            "groups must name each parameter of the model once; missing: "
            f"{', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}"
        )
    return order


def _moments(state: Any, trained: TrainedParameters) -> dict[str, dict[str, Any]]:
    """Return name in torch -> moments in torch's layout, and "step" for Adam."""
    import jax

    def is_known(node: Any) -> bool:
        return bool({"mu", "trace"} & set(getattr(node, "_fields", ())))

    arrays: dict[str, dict[str, np.ndarray]] = {}
    steps: dict[str, np.ndarray] = {}
    for node in filter(is_known, jax.tree.leaves(state, is_leaf=is_known)):
        for field in _FIELDS.keys() & set(node._fields):
            # Parameters of other groups are masked, and have no leaves.
            leaves = dotted_leaves(getattr(node, field))
            field_arrays = arrays.setdefault(_FIELDS[field], {})
            field_arrays.update((name, np.asarray(leaf)) for name, leaf in leaves.items())
            if field == "mu":
                steps.update(dict.fromkeys(leaves, np.asarray(node.count, np.float32)))
    if unknown := set().union(*arrays.values()) - trained.params.keys():
        raise ValueError(
            f"state must hold moments of the model's parameters only, got one of {min(unknown)!r}"
        )
    moments: dict[str, dict[str, Any]] = {}
    for field, by_path in arrays.items():
        for row in trained.rows:
            if by_path.keys() >= set(row.paths):
                parameter_moments = moments.setdefault(row.torch, {})
                (parameter_moments[field],) = row.to_torch(tuple(by_path[path] for path in row.paths))
                if field == "exp_avg":
                    parameter_moments["step"] = steps[row.paths[0]]
    return moments


def _of_group(group: Mapping[str, Any], name: str, moments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter; raise unless it has the fields of the group's optimizer."""
    if "betas" in group:
        fields = {"step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group.get("amsgrad") else [])}
    elif "momentum" in group:
        fields = {"momentum_buffer"} if group["momentum"] else set()
    else:
        raise ValueError(
            f"groups must have the hyperparameters of SGD, Adam or AdamW, got {', '.join(sorted(group))}"
        )
    if fields != moments.keys():
        raise ValueError(
            f"state must have the moments {', '.join(sorted(fields)) or 'none'} of {name}, got "
            f"{', '.join(sorted(moments)) or 'none'}"
        )
    # Before the first step, torch has no momentum_buffer; it does not dampen that step.
    first = fields == {"momentum_buffer"} and not np.any(moments["momentum_buffer"])
    return {} if first else dict(moments)
