"""The table of torch's layers: one row for each kind.

A row names the axes of the tensors. In ``weight=O,I,*k bias?=O`` equal names are equal sizes, ``*k`` stands
for any number of axes, and ``bias`` may be missing.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Axes = dict[str, Any]
"""Name of an axis -> size, "*k" -> list of sizes, and "bias?" -> True if the layer has this tensor."""


class LayerKind(NamedTuple):
    """A kind of layers.

    Attributes:
      name: the class in ``torch.nn``; ``{k}`` stands for the number of axes in ``*k``. Its operator has the
        same name in snake case.
      tensors: the axes of each tensor.
      sizes: the arguments that the shapes tell, by axes and tensors; ``*C`` is a list of sizes.
      settings: the arguments that no state dict records, with torch's defaults.
      is_rare: the kind fits only if no other does.
      fits: a further condition on the axes.
    """

    name: str
    tensors: str = ""
    sizes: str = ""
    settings: Mapping[str, Any] = {}
    is_rare: bool = False
    fits: Callable[[Axes], bool] = bool

    def claimed(self, names: Iterable[str]) -> list[str]:
        """Return the names of the tensors that the layer has; none if it needs others."""
        tensors = _pairs(self.tensors)
        present = [name for name in names if name in tensors or f"{name}?" in tensors]
        return present if all(name in present or name.endswith("?") for name in tensors) else []

    def axes(self, shapes: Mapping[str, tuple[int, ...]]) -> Axes | None:
        """Return the axes of a layer with tensors of these shapes, or None if they do not fit."""
        axes: Axes = {}
        for name, pattern in _pairs(self.tensors).items():
            axes[name] = name.rstrip("?") in shapes
            if axes[name]:
                names, sizes = pattern.split(","), list[Any](shapes[name.rstrip("?")])
                if names[-1].startswith("*"):
                    sizes[len(names) - 1 :] = [sizes[len(names) - 1 :]]
                if len(names) != len(sizes):
                    return None
                if any(axes.setdefault(axis, size) != size for axis, size in zip(names, sizes, strict=True)):
                    return None
        return axes if self.fits(axes) else None

    def arguments(self, axes: Axes) -> dict[str, Any]:
        """Return the arguments that the axes determine."""
        values = {f"*{axis}": [size] for axis, size in axes.items()} | axes
        return {name: values[axis] for name, axis in _pairs(self.sizes).items() if axis in values}


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


def _is_matrix(axes: Axes) -> bool:
    return len(axes["*C"]) == 2


def _is_image(axes: Axes) -> bool:
    return 1 <= len(axes["*k"]) <= 3


def _has_groups(axes: Axes) -> bool:
    """Return True if the shapes of a weight (I, P) and a bias (O) fit a convolution with groups."""
    groups, remainder = divmod(axes.get("O", 0), axes["P"] or 1)
    return _is_image(axes) and groups > 1 and remainder == 0 and axes["I"] % groups == 0


_ATTENTION = "out_proj.weight=E,F out_proj.bias?=E in_proj_weight?=P,E in_proj_bias?=P bias_k?=*B bias_v?=*B"
_SEPARATE = " q_proj_weight?=E,Q k_proj_weight?=E,K v_proj_weight?=E,V"
_STATISTICS = "running_mean=C running_var=C num_batches_tracked?=*N"
_CHANNELS = "in_channels=I out_channels=O kernel_size=*k bias=bias?"
_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED = {**_CONVOLUTION, "output_padding": 0}
_NORM = {"eps": 1e-5}
_RECURRENT = {"batch_first": False, "dropout": 0.0}

KINDS = [
    LayerKind(
        "MultiheadAttention",
        _ATTENTION + _SEPARATE,
        "embed_dim=E bias=in_proj_bias? kdim=K vdim=V add_bias_kv=bias_k?",
        {"num_heads": None, "dropout": 0.0, "batch_first": False, "add_zero_attn": False},
        fits=lambda axes: axes.get("P", 3 * axes["E"]) == 3 * axes["E"],
    ),
    LayerKind(
        "BatchNorm",
        f"weight?=C bias?=C {_STATISTICS}",
        "num_features=C affine=weight?",
        {**_NORM, "momentum": 0.1},
    ),
    # The likeliest of the kinds with the same tensors come first.
    LayerKind("PReLU", "weight=C", "num_parameters=C", fits=lambda axes: axes["C"] == 1),
    LayerKind("RMSNorm", "weight=C", "normalized_shape=*C", {"eps": None}),
    LayerKind("LayerNorm", "weight=C bias?=C", "normalized_shape=*C bias=bias?", _NORM),
    LayerKind("GroupNorm", "weight=C bias=C", "num_channels=C", {"num_groups": None, **_NORM}),
    LayerKind("InstanceNorm", "weight=C bias=C", "num_features=C", _NORM),
    LayerKind("PReLU", "weight=C", "num_parameters=C"),
    LayerKind("Linear", "weight=O,I bias?=O", "in_features=I out_features=O bias=bias?"),
    LayerKind("Embedding", "weight=N,F", "num_embeddings=N embedding_dim=F", {"padding_idx": -1}),
    LayerKind("transformers.Conv1D", "weight=I,O bias=O", "nx=I nf=O", is_rare=True),
    LayerKind("LayerNorm", "weight=*C bias=*C", "normalized_shape=*C bias=bias", _NORM, True, _is_matrix),
    LayerKind("Conv{k}d", "weight=O,I,*k bias?=O", _CHANNELS, _CONVOLUTION, fits=_is_image),
    LayerKind("ConvTranspose{k}d", "weight=I,O,*k bias?=O", _CHANNELS, _TRANSPOSED, fits=_is_image),
    LayerKind("ConvTranspose{k}d", "weight=I,P,*k bias?=O", _CHANNELS, _TRANSPOSED, True, _has_groups),
    LayerKind("LSTM", settings=_RECURRENT),
    LayerKind("GRU", settings=_RECURRENT),
    LayerKind("RNN", settings={**_RECURRENT, "nonlinearity": "tanh"}),
]

SETTINGS = {"padding_mode", "transposed", "max_norm"}.union(*(kind.settings for kind in KINDS))
"""The attributes of torch's layers that no state dict records."""


def is_plain(value: Any) -> bool:
    """Return True for a number, a word, None, and a tuple of them."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or isinstance(part, int | float | str) for part in parts)


SETTINGS_KEY = "jaxlstm.settings"
"""The key of the settings in the metadata of a safetensors file."""
_TYPES = {"eps": float, "momentum": float, "num_groups": int, "batch_first": bool, "nonlinearity": str}


def settings_text(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text in a file for path of a module -> settings."""
    plain = {path: row for path in settings if (row := typed_settings(settings[path]))}
    return json.dumps(plain, separators=(",", ":"), sort_keys=True)


def read_settings(text: str) -> dict[str, dict[str, Any]]:
    """Return prefix -> settings of the layers in a text of a file; none if it is not such a text."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(settings, dict) or not all(isinstance(row, dict) for row in settings.values()):
        return {}
    return {path and f"{path}.": typed_settings(row) for path, row in settings.items()}


def typed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have the type of their argument. torch's None means its default."""
    return {name: value for name, value in settings.items() if type(value) is _TYPES.get(name)}
