"""The types of layers, and their names and sizes in a state dict."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# The parts of a reparametrized weight: "weight_g", "weight_orig", "parametrizations.weight.original0".
_OLD_PART = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<leaf>weight|bias)_(?P<part>g|v|u|orig|mask)", re.DOTALL)
_NEW_PART = re.compile(
    r"(?P<prefix>(?:.*\.)?)parametrizations\.(?P<leaf>\w+)\.(?P<part>original\d?|\d+\..+)", re.DOTALL
)
# The part with the weight's shape, another part, and the name of the reparametrization.
_REPARAMETRIZATIONS = (
    ("v", "g", "weight normalization"),
    ("original1", "original0", "weight normalization"),
    ("orig", "u", "spectral normalization"),
    ("orig", "mask", "pruning"),
    ("original", "0._u", "spectral normalization"),
    ("original", "original", "a parametrization"),
)


class Variable(NamedTuple):
    """A weight or buffer of a module.

    Attributes:
      tensors: name in the state dict -> tensor; more than one for a reparametrized weight.
      note: the reparametrization, or "".
    """

    shape: tuple[int, ...]
    tensors: dict[str, Any]
    note: str = ""


Module = dict[str, Variable]
"""Name in the module -> variable."""


def group_by_module(tensors: Mapping[str, Any]) -> dict[str, Module]:
    """Return prefix -> module. The output projection of an attention layer belongs to that layer."""
    parts: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in tensors:
        prefix, leaf, part = _split(name, tensors)
        parts[prefix][leaf][part] = name
    return {
        prefix: {leaf: _variable(names, tensors) for leaf, names in leaves.items()}
        for prefix, leaves in parts.items()
    }


def _split(name: str, tensors: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the prefix of a tensor's module, its name in the module, and the part of it or ""."""
    if match := _NEW_PART.fullmatch(name):
        return match["prefix"], match["leaf"], match["part"]
    if match := _OLD_PART.fullmatch(name):
        stem = name.rpartition("_")[0]
        if f"{stem}_orig" in tensors or {f"{stem}_g", f"{stem}_v"} <= tensors.keys():
            return match["prefix"], match["leaf"], match["part"]
    start = name.rfind(".") + 1
    prefix, leaf = name[:start], name[start:]
    outer = prefix.removesuffix("out_proj.")
    if outer != prefix and (f"{outer}in_proj_weight" in tensors or f"{outer}q_proj_weight" in tensors):
        return outer, f"out_proj.{leaf}", ""
    return prefix, leaf, ""


def _variable(names: Mapping[str, str], tensors: Mapping[str, Any]) -> Variable:
    shaping, note = next(iter(names)), ""
    for part, other, reparametrization in _REPARAMETRIZATIONS:
        if part in names and other in names:
            shaping, note = part, reparametrization
            break
    return Variable(
        tuple(tensors[names[shaping]].shape), {name: tensors[name] for name in names.values()}, note
    )


Shapes = Mapping[str, tuple[int, ...]]
"""Name in the layer -> shape."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_ATTENTION = re.compile(r"in_proj_(weight|bias)|[qkv]_proj_weight|bias_[kv]|out_proj\.(weight|bias)")

# Words in a layer's name that decide among types with the same tensors, tried in this order.
_WORDS = {
    "ConvTranspose": r"transpose|deconv|upconv|convt|^up",
    "Conv": r"conv|down|shortcut|stem|patch",
    "Embedding": r"emb|^w[tp]e$|lookup|vocab",
    "Linear": r"lin|^fc|dense|proj|head|classif|logit|mlp|^[qkvo]$",
    "GroupNorm": r"group_?norm|^gn",
    "InstanceNorm": r"instance_?norm",
    "RMSNorm": r"rms",
    "PReLU": r"prelu|^act",
    "LayerNorm": r"layer_?norm|^ln",
}


@dataclass(frozen=True)
class LayerType:
    """A type that fits.

    Attributes:
      sizes: argument -> value, as far as the shapes tell.
      not_recorded: arguments that a state dict does not record.
    """

    name: str
    sizes: dict[str, Any] = field(default_factory=dict)
    not_recorded: tuple[str, ...] = ()


def claimed_names(shapes: Shapes) -> list[str]:
    """Return the names of the tensors that may form one layer of torch."""
    if "out_proj.weight" in shapes and ("in_proj_weight" in shapes or "q_proj_weight" in shapes):
        return [name for name in shapes if _ATTENTION.fullmatch(name)]
    if "running_mean" in shapes and "running_var" in shapes:
        return [name for name in shapes if name in ("weight", "bias", *BUFFERS)]
    return [name for name in shapes if name in ("weight", "bias")] if "weight" in shapes else []


def fitting_types(shapes: Shapes) -> list[LayerType]:
    """Return the types whose tensors have exactly these names and shapes, the likeliest first."""
    if "out_proj.weight" in shapes:
        return _attention(shapes)
    if "running_mean" in shapes:
        return _batch_norm(shapes)
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    if len(weight) == 1:
        return _vector(weight[0], bias)
    if len(weight) == 2:
        return _matrix(weight, bias)
    return _convolutions(weight, bias) if len(weight) in (3, 4, 5) else []


def choose_by_name(types: list[LayerType], name: str) -> list[LayerType]:
    """Return the one type that a word in the layer's name implies, or all types."""
    if len(types) < 2:
        return types
    # Models call an RMSNorm "layernorm" too; without a bias the word decides nothing.
    misleading = "LayerNorm" if any(t.name == "RMSNorm" for t in types) else ""
    for part in reversed(name.split(".")):
        for word, pattern in _WORDS.items():
            chosen = [t for t in types if t.name.rstrip("123d") == word != misleading]
            if chosen and re.search(pattern, part, re.IGNORECASE):
                return chosen
    return types


def recorded_type(types: list[LayerType], recorded: Mapping[str, Any]) -> LayerType | None:
    """Return the type that a program records, with its arguments, or None if it is not one of ``types``."""
    arguments = {name: value for name, value in recorded.items() if name != "type"}
    for found in types:
        if found.name == recorded.get("type"):
            sizes = {**found.sizes, **arguments}
            groups = arguments.get("groups", 1)
            if isinstance(groups, int) and found.name.startswith("ConvTranspose"):
                sizes["out_channels"] *= 1 if sizes["bias"] else groups
            elif isinstance(groups, int) and "in_channels" in sizes:
                sizes["in_channels"] *= groups
            return LayerType(found.name, sizes)
    return None


def _attention(shapes: Shapes) -> list[LayerType]:
    projections = [shape for name, shape in shapes.items() if name.endswith(("proj_weight", "proj.weight"))]
    if any(len(shape) != 2 for shape in projections):
        return []
    embed_dim = shapes["out_proj.weight"][0]
    if shapes.get("in_proj_weight", (3 * embed_dim, embed_dim)) != (3 * embed_dim, embed_dim):
        return []
    sizes: dict[str, Any] = {"embed_dim": embed_dim, "bias": "in_proj_bias" in shapes}
    for name, key in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
        if key in shapes:
            sizes[name] = shapes[key][1]
    if "bias_k" in shapes:
        sizes["add_bias_kv"] = True
    missing = ("num_heads", "dropout", "batch_first", "add_zero_attn")
    return [LayerType("MultiheadAttention", sizes, missing)]


def _batch_norm(shapes: Shapes) -> list[LayerType]:
    size = shapes["running_mean"]
    vectors = [shape for name, shape in shapes.items() if name != "num_batches_tracked"]
    if len(size) != 1 or any(shape != size for shape in vectors):
        return []
    sizes = {"num_features": size[0], "affine": "weight" in shapes}
    return [LayerType("BatchNorm", sizes, ("eps", "momentum"))]


def _vector(size: int, bias: tuple[int, ...] | None) -> list[LayerType]:
    layer_norm = LayerType("LayerNorm", {"normalized_shape": [size], "bias": bias is not None}, ("eps",))
    if bias == (size,):
        group_norm = LayerType("GroupNorm", {"num_channels": size}, ("num_groups", "eps"))
        return [layer_norm, group_norm, LayerType("InstanceNorm", {"num_features": size}, ("eps",))]
    if bias is not None:
        return []
    rms_norm = LayerType("RMSNorm", {"normalized_shape": [size]}, ("eps",))
    prelu = LayerType("PReLU", {"num_parameters": size})
    return [prelu, rms_norm, layer_norm] if size == 1 else [rms_norm, layer_norm, prelu]


def _matrix(weight: tuple[int, ...], bias: tuple[int, ...] | None) -> list[LayerType]:
    rows, columns = weight
    linear = LayerType("Linear", {"in_features": columns, "out_features": rows, "bias": bias is not None})
    if bias is None:
        embedding = LayerType(
            "Embedding", {"num_embeddings": rows, "embedding_dim": columns}, ("padding_idx",)
        )
        return [linear, embedding]
    if bias == (rows,):
        return [linear]
    if bias == (columns,):  # GPT-2 and its relatives
        return [LayerType("transformers.Conv1D", {"nx": rows, "nf": columns})]
    if bias == weight:
        return [LayerType("LayerNorm", {"normalized_shape": list(weight), "bias": True}, ("eps",))]
    return []


def _convolutions(weight: tuple[int, ...], bias: tuple[int, ...] | None) -> list[LayerType]:
    """Return Conv, ConvTranspose or both. The sizes hold for ``groups=1``, which the shapes do not tell."""
    first, second, *kernel = weight
    dims = f"{len(kernel)}d"
    missing = ("stride", "padding", "dilation", "groups")
    common = {"kernel_size": kernel, "bias": bias is not None}
    types = []
    if bias in (None, (first,)):
        sizes = {"in_channels": second, "out_channels": first, **common}
        types.append(LayerType(f"Conv{dims}", sizes, missing))
    if bias in (None, (second,)) or (bias is not None and not types and _grouped(weight, bias)):
        sizes = {"in_channels": first, "out_channels": bias[0] if bias else second, **common}
        types.append(LayerType(f"ConvTranspose{dims}", sizes, (*missing, "output_padding")))
    return types


def _grouped(weight: tuple[int, ...], bias: tuple[int, ...]) -> bool:
    """Return True if a transposed convolution with groups has these shapes."""
    groups, remainder = divmod(bias[0], weight[1]) if len(bias) == 1 and weight[1] else (0, 1)
    return groups > 1 and remainder == 0 and weight[0] % groups == 0
