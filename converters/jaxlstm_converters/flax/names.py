"""Names of modules and tensors in torch and in Flax."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile

from jaxlstm_converters.flax.layer import FlaxLayer, join

# Modules that torch puts around other modules, and keys under which training programs save a state dict.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# The number of models in the average of torch.optim.swa_utils.AveragedModel, beside its "module".
COUNT = "n_averaged"
# The names of a state dict in a training program's file, where the rest is not part of the model.
STATE_DICTS = frozenset({"state_dict", "model_state_dict", "model_state", "state", "weights", "params"})
# These are also usual attributes of a larger model, beside its other parts.
KEYS = STATE_DICTS | {"model", "net", "network"}
_TRAINING_STATE = re.compile(
    r"optim|sched|scaler|rng|epoch|step|loss|criterion|metric|best|history|(^|_)(ema|swa|lr)(_|$)"
)
# Names of tensors in Flax -> in torch, which ``names`` uses on both sides.
_TORCH_NAMES: dict[str, str] = {"scale": "weight", "kernel": "weight", "embedding": "weight"}
_PARAMETRIZATION = re.compile(r"parametrizations\.([^.]+)\.original([01])$")


class Names:
    """The map between names in Flax and in torch that the user gives as ``names``.

    A name of a tensor in Flax is the path of its layer and the name of torch's tensor, "conv0.weight". The
    longest entry of ``names`` that is a prefix of it replaces that prefix. Other names are the same on both
    sides. Two entries with the same Flax prefix give one Flax layer two names in torch (tied weights).
    """

    def __init__(self, names: Mapping[str, str] | None, layers: Iterable[FlaxLayer] = ()) -> None:
        """Create the map.

        Args:
          names: torch prefix -> Flax prefix. Indices may be written ``layers[0]`` or ``layers.0``.
          layers: the layers of the model, whose paths are replaced by their paths in torch.
        """
        names = {} if names is None else names
        if not isinstance(names, Mapping) or not all(isinstance(s, str) for s in [*names, *names.values()]):
            raise TypeError(f"names must be a dict from torch prefixes to Flax prefixes, got {names!r}")
        paths = {layer.path: layer.torch_path for layer in layers if layer.path}
        prefixes = {dotted(torch): dotted(flax) for torch, flax in names.items()}
        self.flax_of = {torch: paths.get(flax, flax) for torch, flax in prefixes.items()}

    def make_plain(self, plain: Callable[[str], str]) -> None:
        """Replace each torch prefix by a plain one."""
        self.flax_of = {plain(torch): flax for torch, flax in self.flax_of.items()}

    def to_torch(self, name: str) -> list[str]:
        """Return the names in torch of a tensor of a Flax layer; none if they belong to another layer."""
        prefix = _longest(name, self.flax_of.values())
        if prefix is None:
            candidates = [name]
        else:
            suffix = _rest(name, prefix)
            candidates = [join(torch, suffix) for torch, flax in self.flax_of.items() if flax == prefix]
        return [torch for torch in candidates if self.to_flax(torch) == name]

    def to_flax(self, torch: str) -> str:
        """Return the name in Flax of a tensor in torch."""
        prefix = _longest(torch, self.flax_of)
        return torch if prefix is None else join(self.flax_of[prefix], _rest(torch, prefix))

    def require_flax_prefixes(self, names: Iterable[str]) -> None:
        """Raise ValueError for a Flax prefix that is not one of ``names`` or a prefix of one."""
        names = list(names)
        for torch, flax in self.flax_of.items():
            if not _any_below(flax, names):
                layer, _, leaf = flax.rpartition(".")
                torch_name = _TORCH_NAMES.get(leaf)
                raise ValueError(
                    f"names maps {torch!r} to {flax!r}, but no layer of the model has this path; "
                    + (
                        f"names maps to torch's names of tensors: write {join(layer, torch_name)!r}"
                        if torch_name and _any_below(layer, names)
                        else f"the paths are {_list_prefixes(names)}"
                    )
                )

    def require_torch_prefixes(self, names: Iterable[str]) -> None:
        """Raise ValueError for a torch prefix that is not one of ``names`` or a prefix of one."""
        names = list(names)
        for torch in self.flax_of:
            if not _any_below(torch, names):
                raise ValueError(
                    f"names has the torch prefix {torch!r}, but no tensor of the source starts with it; the "
                    f"prefixes are {_list_prefixes(names)}"
                )

    @property
    def selected(self) -> list[str]:
        """The torch prefixes that stand for the whole Flax model."""
        return [torch for torch, flax in self.flax_of.items() if flax == "" and torch]


def dotted(name: str) -> str:
    """Return a path with its indices after dots: "layers[0].conv." becomes "layers.0.conv"."""
    return re.sub(r"\[['\"]?([^\]'\"]*)['\"]?\]", r".\1", name).strip(".")


def without_wrappers(name: str, keep: Iterable[str] = ()) -> str:
    """Return a name without the components that torch's wrappers add, unless they are in ``keep``.

    The new spelling of weight normalization becomes the old one: ``weight_g`` and ``weight_v``.
    """
    plain = ".".join(part for part in name.split(".") if part not in WRAPPERS or part in keep)
    if "parametrizations" in keep:
        return plain
    return _PARAMETRIZATION.sub(lambda match: f"{match[1]}_{'gv'[int(match[2])]}", plain)


def find_root(names: Iterable[str], expected: Iterable[str]) -> str:
    """Return the prefix below which a state dict holds most of the expected names.

    Of equals, a usual key of checkpoints comes before others, and then the shortest.
    """
    expected = set(expected)
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        splits = ((".".join(parts[:k]), ".".join(parts[k:])) for k in range(len(parts)))
        counts.update(prefix for prefix, suffix in splits if suffix in expected)
    most = max(counts.values(), default=0)
    equals = sorted((prefix for prefix in counts if counts[prefix] == most), key=len)
    keys = [prefix for prefix in equals if is_key(prefix)]
    if "" in equals or not keys:
        return min(equals, key=len, default="")
    other = next((key for key in keys if not f"{key}.".startswith(f"{keys[0]}.")), None)
    if other is not None:
        raise ValueError(
            f"source holds the model below {keys[0]!r} and below {other!r}: pass the state dict of one of "
            f"them, or names={{{keys[0]!r}: ''}}"
        )
    return keys[0]


def is_key(prefix: str) -> bool:
    """Return True if a prefix consists of usual keys of checkpoints, such as "model_state_dict"."""
    return all(part in KEYS | WRAPPERS for part in prefix.split("."))


def leading_keys(prefix: str) -> str:
    """Return the usual keys at the start of a prefix: "model_state_dict" of "model_state_dict.tagger"."""
    return ".".join(takewhile(is_key, prefix.split(".")))


def is_training_state(name: str, root: str) -> bool:
    """Return True if a tensor outside ``root`` cannot be part of a larger model.

    ``root`` consists of usual keys. Beside "model", an optimizer's state is not part of the model, but a
    "head" is.
    """
    parts, keys = name.split("."), root.split(".")
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, keys, strict=False)))
    return keys[common] in STATE_DICTS or bool(_TRAINING_STATE.search(parts[common]))


def _any_below(prefix: str, names: Iterable[str]) -> bool:
    """Return True if a name is ``prefix`` or starts with it."""
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for name in names)


def _list_prefixes(names: Iterable[str]) -> str:
    """Return the prefixes of the first layers, for messages."""
    prefixes = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(map(repr, prefixes[:20])) + (", ..." if len(prefixes) > 20 else "")


def _longest(name: str, prefixes: Iterable[str]) -> str | None:
    matching = [p for p in prefixes if p in ("", name) or name.startswith(f"{p}.")]
    return max(matching, key=len, default=None)


def _rest(name: str, prefix: str) -> str:
    return name[len(prefix) + 1 :] if prefix else name
