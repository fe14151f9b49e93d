"""Three torch models and their Flax ports, right or with one of the planted faults of ``FAULTS``.

A port is the source that ``jaxlstm convert`` writes. A fault is an edit of its text or of its weights.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from testing.modules import randomized
from testing.written import write


class TorchCRNN(nn.Module):
    """A text recogniser: convolutions, a bidirectional LSTM over the width, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.AvgPool2d(3, stride=(2, 1), padding=1),
        )
        self.lstm = nn.LSTM(8, 5, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(10, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cnn(x).permute(0, 3, 1, 2).flatten(2)
        return self.fc(self.lstm(x)[0])


class TorchTagger(nn.Module):
    """Embedding, layer norm, a bidirectional LSTM of two layers over time-major data, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.norm0, self.norm1 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.drop = nn.Dropout(0.3)
        self.lstm = nn.LSTM(8, 4, num_layers=2, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))
        with torch.no_grad():
            self.embed.weight.mul_(0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm0(self.embed(tokens)))
        x = self.norm1(self.lstm(x)[0])
        return torch.log_softmax(self.head(x), -1)


class TorchHybrid(nn.Module):
    """A feed-forward layer with a residual, an LSTM, and a mean over the valid steps."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.dense0, self.dense1 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        x = self.norm0(x)
        x = self.norm1(x + self.dense1(functional.gelu(self.dense0(x))))
        y = self.lstm(x)[0].masked_fill(padding[..., None], 0.0)
        return self.head(y.sum(1) / (~padding).sum(1, keepdim=True))


class ModelFault(NamedTuple):
    """A fault of a port.

    Attributes:
        cause: a pattern in the cause that the report must name.
        edits: patterns in the written source, and their replacements.
        weights: a weight of the port from the right one, by the start of their names.
        training: the port is in training mode.
    """

    cause: str
    edits: Mapping[str, str] = {}
    weights: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}
    training: bool = False


def _in_onnx_order(array: np.ndarray) -> np.ndarray:
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])


TRAINING = ModelFault(r"the model is in training mode: after model.eval\(\) it matches", training=True)
FAULTS: dict[tuple[str, str], ModelFault] = {
    ("crnn", "flatten order"): ModelFault(
        r"flatten in forward merges axes 2, 3 in the order 3, 2",
        {r"\.transpose\(0, 2, 3, 1\)(?=\n.*reshape)": ".transpose(0, 2, 1, 3)"},
    ),
    ("crnn", "batch norm epsilon"): ModelFault(
        r"the epsilon of every batch_norm is 0.001 instead of 1e-05", {"momentum=0.9": r"\g<0>, epsilon=1e-3"}
    ),
    ("crnn", "batch statistics"): TRAINING,
    ("crnn", "relu"): ModelFault(r"cnn.2 \(relu\) is missing", {r"nnx\.relu\b": "lambda x: x"}),
    ("crnn", "pool stride"): ModelFault(
        r"the stride of cnn.3 \(max_pool2d\) is 1", {r"strides=\(2, 2\)": "strides=(1, 1)"}
    ),
    ("crnn", "pool padding"): ModelFault(
        r"cnn.8 \(avg_pool2d\) pads as SAME does", {r"padding=\(\(1, 1\), \(1, 1\)\)": 'padding="SAME"'}
    ),
    ("crnn", "count_include_pad"): ModelFault(
        r"cnn.8 \(avg_pool2d\) does not count the padding",
        {r"padding=\(\(1, 1\), \(1, 1\)\)": r"\g<0>, count_include_pad=False"},
    ),
    ("crnn", "conv bias"): ModelFault(
        r"cnn.4 \(conv2d\) has no bias", {r"Conv\(4, 4, \(3, 3\), padding=1": r"\g<0>, use_bias=False"}
    ),
    ("crnn", "conv SAME padding"): ModelFault(
        r"cnn.7 \(conv2d\) pads as SAME does", {"strides=2, padding=1": 'strides=2, padding="SAME"'}
    ),
    ("crnn", "conv in bfloat16"): ModelFault(
        r"the model is right in float64; its layers lose accuracy in float32",
        {r"Conv\(4, 4, \(3, 3\), padding=1": r"\g<0>, dtype=jnp.bfloat16"},
    ),
    ("crnn", "leaky slope"): ModelFault(
        r"the slope of cnn.6 \(leaky_relu\) is 0.01 instead of 0.1",
        {"negative_slope=0.1": "negative_slope=0.01"},
    ),
    ("crnn", "batch_first"): ModelFault(
        r"lstm \(lstm\) has batch_first=False instead of True", {"batch_first=True": "batch_first=False"}
    ),
    ("crnn", "kernel axes"): ModelFault(
        r"the height and width of the weight of cnn.0 \(conv2d\) are swapped",
        weights={"cnn.0.weight": lambda w: w.swapaxes(2, 3)},
    ),
    ("tagger", "dropout"): TRAINING,
    ("tagger", "layer norm epsilon"): ModelFault(
        r"the epsilon of every layer_norm is 1e-06 instead of 1e-05", {"epsilon=1e-5": "epsilon=1e-6"}
    ),
    ("tagger", "epsilon of one norm"): ModelFault(
        r"the epsilon of norm0 \(layer_norm\) is 1e-06 instead of 1e-05",
        {r"(norm0 = .*epsilon)=1e-5": r"\1=1e-6"},
    ),
    ("tagger", "norm missing"): ModelFault(r"norm1 \(layer_norm\) is missing", {r"self\.norm1\(": "("}),
    ("tagger", "batch_first"): ModelFault(
        r"lstm \(lstm\) has batch_first=True instead of False", {"num_layers=2": r"\g<0>, batch_first=True"}
    ),
    ("tagger", "gate order"): ModelFault(
        r"in lstm \(lstm\), the gates are read in the order i, g, o, f", weights={"lstm.": _in_onnx_order}
    ),
    ("tagger", "head bias"): ModelFault(
        r"head.0 \(linear\) has no bias", {r"Linear\(8, 8": r"\g<0>, use_bias=False"}
    ),
    ("tagger", "head transposed"): ModelFault(
        r"the weight of head.0 \(linear\) is transposed", weights={"head.0.weight": np.transpose}
    ),
    ("tagger", "activation"): ModelFault(
        r"head.1 \(tanh\) is relu instead of tanh", {r"jnp\.tanh": "nnx.relu"}
    ),
    ("tagger", "log_softmax"): ModelFault(r"log_softmax in forward is missing", {r"nnx\.log_softmax": ""}),
    ("hybrid", "gelu"): ModelFault(
        r"gelu in forward has the tanh form instead of the exact one",
        {"approximate=False": "approximate=True"},
    ),
    ("hybrid", "mask inverted"): ModelFault(
        r"the mask of masked_fill in forward is inverted", {r"where\(": r"\g<0>~"}
    ),
    ("hybrid", "direction order"): ModelFault(
        r"in lstm \(lstm\), the reverse direction's outputs come first",
        {r"(\w+), _ = (self\.lstm\(\w+\))": r"\1 = jnp.roll(\2[0], 4, -1)"},
    ),
    ("hybrid", "pooled padding"): ModelFault(
        r"masked_fill in forward is missing", {r"jnp\.where\(.*, (\w+)\)\n": r"\1\n"}
    ),
    ("hybrid", "two faults"): ModelFault(
        r"the epsilon of .*norm.* and .*gelu|gelu.* and the epsilon of",
        {"epsilon=1e-5": "epsilon=1e-6", "approximate=False": "approximate=True"},
    ),
}
CHANNELS_LAST = {
    r"self\.cnn\(x\.transpose\(0, 2, 3, 1\)\)": "self.cnn(x)",
    # The assertions are about images with the channels first.
    r" {8}assert (?:[^\n]*\(\n[^\n]*\n {8}\)|[^\n]*)\n": "",
}
"""The edit that makes the text recogniser take its channels last."""
_ARGUMENTS: dict[str, tuple[type[nn.Module], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "crnn": (TorchCRNN, lambda: (torch.randn(3, 1, 16, 12),)),
    "tagger": (TorchTagger, lambda: (torch.randint(1, 20, (7, 3)),)),
    "hybrid": (
        TorchHybrid,
        lambda: (torch.randn(4, 6, 8), torch.arange(6)[None] >= torch.tensor([6, 4, 3, 5])[:, None]),
    ),
}


def model_and_port(
    model: str, fault: str = "", edits: Mapping[str, str] | None = None
) -> tuple[nn.Module, Any, tuple[torch.Tensor, ...]]:
    """Return torch's model, its port with a fault or other edits, and the arguments."""
    kind, arguments = _ARGUMENTS[model]
    theirs, args = randomized(kind()), arguments()
    planted = FAULTS[model, fault] if fault else ModelFault("", edits or {})

    def weights(tensors: dict[str, Any]) -> dict[str, Any]:
        changes = {
            name: f for start, f in planted.weights.items() for name in tensors if name.startswith(start)
        }
        return tensors | {name: f(tensors[name]) for name, f in changes.items()}

    ours = write(theirs, *args, edits=planted.edits, weights=weights).model
    theirs.train()
    if planted.training:
        ours.train()
    return theirs, ours, args
