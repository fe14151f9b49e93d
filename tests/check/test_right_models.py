"""No false alarms: right Flax ports of random torch models, written by ``write_source``, hold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import jaxlstm
from jaxlstm.check import verify_model
from testing.modules import arrays, module_of, randomized
from testing.seeds import seeds
from testing.written import write


@pytest.mark.parametrize("seed", seeds(fast=1, slow=200))
def test_right_port_holds(seed):
    theirs, args = random_model(seed)
    report = verify_model(write(theirs, *args).model, theirs, args)
    assert report.ok, str(report)
    assert {item.status for item in report.items} == {"ok"}, str(report)


@pytest.mark.parametrize("tolerance", [{}, {"rtol": 1e-4, "atol": 1e-5}])
def test_biases_of_equal_values(tolerance):
    """Only the gradients tell which bias is which, from the first case on."""
    theirs = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    a = arrays(theirs)
    params = {"p": {"w": a["0.weight"].T, "b": a["0.bias"]}, "q": {"w": a["2.weight"].T, "b": a["2.bias"]}}

    def ours(params, x):
        p, q = params["p"], params["q"]
        return jnp.tanh(x @ p["w"] + p["b"]) @ q["w"] + q["b"]

    report = verify_model(ours, theirs, (torch.randn(5, 4),), params=params, **tolerance)
    assert report.ok, str(report)


def test_sizes_that_change_alike_on_two_axes():
    theirs = module_of(lambda m, x, y: m.conv(torch.cat([x, y], -1)), conv=nn.Conv1d(4, 2, 3))
    a = arrays(theirs)

    def ours(x, y):
        x = jnp.concatenate([x, y], -1)
        dimensions = ("NCH", "OIH", "NCH")
        weight = jnp.asarray(a["conv.weight"], x.dtype)
        x = jax.lax.conv_general_dilated(x, weight, (1,), "VALID", dimension_numbers=dimensions)
        return x + a["conv.bias"][:, None]

    report = verify_model(ours, theirs, (torch.randn(1, 4, 4), torch.randn(1, 4, 4)))
    assert report.ok, str(report)
    item = next(item for item in report.items if item.id == "float64-results-torch")
    named = [name for name in item.data["cases"] if "4 -> 1 " in name]
    assert [name.partition("4 -> 1")[2].partition(",")[0] for name in named] == [
        " on axis 2 of args[0]",
        " on axis 2 of args[1]",
    ]


def test_attention_in_float64_has_a_dtype_of_its_own():
    theirs = module_of(
        lambda m, x: m.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(8, 2, batch_first=True).double(),
    )
    with jax.enable_x64(True):
        ours = nnx.MultiHeadAttention(2, 8, decode=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        jaxlstm.load_state_dict(ours, theirs.attention)
    report = verify_model(ours, theirs, (torch.randn(2, 5, 8).double(),))
    assert report.ok, str(report)


def test_a_mask_that_is_float32_in_torch_whatever_the_dtype():
    theirs = module_of(lambda m, x: (m.linear(x), (x > 0).float()), linear=nn.Linear(4, 3))
    a = arrays(theirs)

    def ours(x):
        return x @ a["linear.weight"].T + a["linear.bias"], (x > 0).astype(x.dtype)

    report = verify_model(ours, theirs, (torch.randn(5, 4),))
    assert report.ok, str(report)


KINDS = ("linear", "layer norm", "group norm", "batch norm", "conv", "lstm", "attention", "feed forward")
ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "tanh": torch.tanh,
    "elu": functional.elu,
}


class LayersInTorch(nn.Module):
    """Layers over (batch, time, features), and a mean over time or a log-softmax."""

    def __init__(self, kinds: list[tuple[str, str]], width: int, tokens: int, pooled: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else nn.Linear(3, width)
        self.layers = nn.ModuleList([_torch_layer(kind, width) for kind, _ in kinds])
        self.activations = [ACTIVATIONS[name] for _, name in kinds]
        self.pooled = pooled
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            match layer:
                case nn.LSTM():
                    x = layer(x)[0]
                case nn.MultiheadAttention():
                    x = x + layer(x, x, x, need_weights=False)[0]
                case nn.Conv1d() | nn.GroupNorm() | nn.BatchNorm1d():
                    x = layer(x.transpose(1, 2)).transpose(1, 2)
                case nn.Sequential():
                    x = x + layer[1](activation(layer[0](x)))
                case _:
                    x = activation(layer(x))
        return self.head(x.mean(1)) if self.pooled else torch.log_softmax(self.head(x), -1)


def random_model(seed: int) -> tuple[Any, tuple[Any, ...]]:
    """Return a random torch model and its arguments."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, tokens = int(rng.choice([4, 6, 8])), int(rng.choice([0, 12]))
    count = rng.integers(2, 5)
    kinds = [(str(rng.choice(KINDS)), str(rng.choice(list(ACTIVATIONS)))) for _ in range(count)]
    theirs = LayersInTorch(kinds, width, tokens, bool(rng.integers(2)))
    # torch.export fixes axes of size 1.
    batch, time = int(rng.integers(2, 5)), int(rng.integers(2, 8))
    x = torch.randint(tokens, (batch, time)) if tokens else torch.randn(batch, time, 3)
    return randomized(theirs).eval(), (x,)


def _torch_layer(kind: str, width: int) -> nn.Module:
    return {
        "linear": lambda: nn.Linear(width, width),
        "layer norm": lambda: nn.LayerNorm(width),
        "group norm": lambda: nn.GroupNorm(2, width),
        "batch norm": lambda: nn.BatchNorm1d(width),
        "conv": lambda: nn.Conv1d(width, width, 3, padding=1),
        "lstm": lambda: nn.LSTM(width, width // 2, 2, batch_first=True, bidirectional=True),
        "attention": lambda: nn.MultiheadAttention(width, 2, batch_first=True),
        "feed forward": lambda: nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width)),
    }[kind]()
