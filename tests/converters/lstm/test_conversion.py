"""from_torch and to_torch: every config and dtype, bit for bit, and their errors."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig, find_lstms, from_torch, to_torch

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYERS = [
    (torch.nn.LSTM, LSTMConfig, {"num_layers": layers, "bias": b, "bidirectional": bi, "proj_size": p})
    for layers, b, bi, p in itertools.product((1, 2), (True, False), (True, False), (0, 3))
] + [(torch.nn.LSTMCell, LSTMCellConfig, {"bias": bias}) for bias in (True, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_round_trip_is_bit_exact(dtype: torch.dtype) -> None:
    for layer, config_type, arguments in LAYERS:
        module = layer(4, 5, **arguments, dtype=dtype)
        with jax.enable_x64(dtype == torch.float64):
            params, config = from_torch(module)
            assert config == config_type(4, 5, **arguments)
            assert {str(p.dtype) for p in params.values()} == {str(dtype).removeprefix("torch.")}
            state_dict: Any = to_torch(params, config)
        assert list(state_dict) == list(module.state_dict())
        fresh = layer(4, 5, **arguments, dtype=dtype)
        fresh.load_state_dict(state_dict, strict=True)
        for name, tensor in module.state_dict().items():
            assert torch.equal(fresh.state_dict()[name], tensor), name


def test_negative_views() -> None:
    """torch applies the sign of such a tensor when it reads it."""
    state_dict = torch.nn.LSTM(3, 4).state_dict()
    views = {
        name: torch._neg_view(tensor)  # pyright: ignore[reportPrivateImportUsage]
        for name, tensor in state_dict.items()
    }
    params, _ = from_torch(views, batch_first=False, dropout=0.0)
    for name, tensor in state_dict.items():
        np.testing.assert_array_equal(params[name], -tensor.numpy())


def test_params_share_no_memory_with_the_module() -> None:
    """Older versions of JAX share memory with aligned arrays, which torch's are."""
    module = torch.nn.LSTM(64, 64)
    params, _ = from_torch(module)
    before = {name: np.array(leaf) for name, leaf in params.items()}
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.fill_(1)
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, before[name])


def test_nan_payloads_and_signed_zeros_are_kept() -> None:
    module = torch.nn.LSTM(1, 1)
    bits = torch.tensor([0x7FC12345, -0x80000000, 0x00000001, 0x7F800000], dtype=torch.int32)
    module.load_state_dict({**module.state_dict(), "bias_ih_l0": bits.view(torch.float32)})
    back = to_torch(*from_torch(module))["bias_ih_l0"]
    np.testing.assert_array_equal(np.asarray(back).view(np.int32), bits.numpy())


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)
        self.encoder = torch.nn.LSTM(4, 5, 2, batch_first=True, dropout=0.25, bidirectional=True)
        self.decoder = torch.nn.LSTMCell(10, 6)
        self.other = torch.nn.GRU(4, 5)
        self.plain = torch.nn.RNN(4, 5)
        self.head = torch.nn.Linear(6, 3)


def test_all_lstms_of_a_model_are_found() -> None:
    model = torch.nn.DataParallel(Model())
    assert find_lstms(model.state_dict()) == {
        "module.encoder.": LSTMConfig(4, 5, 2, bidirectional=True),
        "module.decoder.": LSTMCellConfig(10, 6),
    }
    with pytest.raises(ValueError, match=r"prefix must select one of.*'module.encoder.', 'module.decoder.'"):
        from_torch(model)
    for prefix in ("module.encoder.", "module.encoder", "encoder"):
        params, config = from_torch(model, prefix=prefix)
        assert config == LSTMConfig(4, 5, 2, batch_first=True, dropout=0.25, bidirectional=True)
        expected = model.module.encoder.state_dict()["weight_hh_l1_reverse"].numpy()
        np.testing.assert_array_equal(params["weight_hh_l1_reverse"], expected)
    with pytest.raises(ValueError, match=r"prefix 'coder' matches no LSTM.*'module.encoder.'"):
        from_torch(model, prefix="coder")
    with pytest.raises(ValueError, match=r"prefix 'other' selects a GRU"):
        from_torch(model, prefix="other")


def test_batch_first_and_dropout_of_a_state_dict_are_arguments() -> None:
    state_dict = Model().state_dict()
    _, config = from_torch(state_dict, prefix="encoder", batch_first=True, dropout=0.5)
    assert config == LSTMConfig(4, 5, 2, batch_first=True, dropout=0.5, bidirectional=True)
    numpy_dict = {name: tensor.numpy() for name, tensor in state_dict.items()}
    params, config = from_torch(numpy_dict, prefix="encoder")
    assert config == LSTMConfig(4, 5, 2, bidirectional=True)
    assert isinstance(params["weight_ih_l0"], jax.Array)


def test_all_wrong_keys_are_reported_at_once() -> None:
    state_dict: dict[str, Any] = dict(torch.nn.LSTM(4, 5, 2).state_dict())
    del state_dict["bias_hh_l1"]
    state_dict["weight_ih_l1"] = torch.zeros(20, 6)
    state_dict["weight_ih_l3"] = torch.zeros(20, 5)
    with pytest.raises(ValueError, match="is invalid") as caught:
        from_torch(state_dict)
    for problem in (
        "missing bias_hh_l1 (20,)",
        "unexpected weight_ih_l3 (20, 5)",
        "weight_ih_l1 has shape (20, 6), expected (20, 5)",
    ):
        assert problem in str(caught.value)
    with pytest.raises(ValueError, match="is invalid"):
        find_lstms(state_dict)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({f"a{k}": np.zeros(1) for k in range(6)}, r"its 6 tensors are a0, a1, a2, a3, a4, \.\.\.$"),
        (torch.nn.Linear(3, 4), r"no LSTM; its 2 tensors are weight, bias$"),
        (torch.nn.GRU(4, 5), "the root is a GRU; only LSTM and LSTMCell"),
        (
            torch.nn.ModuleDict({"g": torch.nn.GRU(2, 3), "r": torch.nn.RNN(2, 3)}),
            r"no LSTM: g\. is a GRU, r\. is an RNN; only",
        ),
        ({}, "it is empty"),
        ({"lstm._all_weight_values.0.param": np.zeros(3)}, "quantized one.*convert the float model"),
    ],
    ids=range(6),
)
def test_sources_without_an_lstm(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torch(source)


def test_a_path_is_not_a_source() -> None:
    with pytest.raises(TypeError, match=r"must be .* a mapping.*got str; use jaxlstm.load"):
        from_torch("model.pt")


def test_dtype_and_64_bit_mode() -> None:
    module = torch.nn.LSTM(4, 5, dtype=torch.float64)
    with pytest.raises(TypeError, match="weight_ih_l0 is float64"):
        from_torch(module)
    params, _ = from_torch(module, dtype=jnp.float32)
    assert all(p.dtype == jnp.float32 for p in params.values())


def test_integers_are_not_weights() -> None:
    """They are the quantized form of weights, and their scales are elsewhere."""
    state_dict = {name: tensor.to(torch.int8) for name, tensor in torch.nn.LSTM(3, 5).state_dict().items()}
    for dtype in (None, "float32"):
        with pytest.raises(
            TypeError, match="weight_ih_l0 must be float16, bfloat16, float32 or float64, got"
        ):
            jaxlstm.from_torch(state_dict, dtype=dtype)


def test_inputs_are_not_changed() -> None:
    state_dict = torch.nn.LSTM(4, 5).state_dict()
    before = {name: tensor.clone() for name, tensor in state_dict.items()}
    params, config = from_torch(state_dict)
    to_torch(params, config)
    jaxlstm.lstm(params, jnp.ones((2, 1, 4)), config=config)
    assert list(before) == list(state_dict)
    assert all(torch.equal(before[name], state_dict[name]) for name in before)
