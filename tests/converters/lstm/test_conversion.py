"""from_torch and to_torch: every config and dtype, bit for bit, and their errors."""

import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig, find_lstms, from_torch, param_shapes, to_torch
from jaxlstm_converters.lstm._load import StateArray

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


def test_nan_payloads_and_signed_zeros_are_kept() -> None:
    module = torch.nn.LSTM(1, 1)
    bits = torch.tensor([0x7FC12345, -0x80000000, 0x00000001, 0x7F800000], dtype=torch.int32)
    module.load_state_dict({**module.state_dict(), "bias_ih_l0": bits.view(torch.float32)})
    back = to_torch(*from_torch(module))["bias_ih_l0"]
    np.testing.assert_array_equal(np.asarray(back).view(np.int32), bits.numpy())


def test_params_share_no_memory_with_the_module() -> None:
    """Older versions of JAX share memory with aligned arrays, which torch's are."""
    module = torch.nn.LSTM(64, 64)
    params, config = from_torch(module)
    before = {name: np.array(leaf) for name, leaf in params.items()}
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.fill_(1)
    to_torch(params, config)
    jaxlstm.lstm(params, jnp.ones((2, 1, 64)), config=config)
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, before[name])
    assert all((tensor == 1).all() for tensor in module.parameters())


def state_array(values: Any) -> Any:
    return np.asarray(values).view(StateArray)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_state_array_is_copied_to_a_tensor(dtype: Any) -> None:
    ours = state_array(np.arange(6).reshape(2, 3).astype(dtype).T)  # not contiguous
    tensor = ours.tensor()
    assert tensor.is_contiguous()
    assert str(tensor.dtype) == f"torch.{np.dtype(dtype)}"
    assert tensor.tolist() == [[0, 3], [1, 4], [2, 5]]
    tensor[0, 0] = 7
    assert float(ours[0, 0]) == 0


def test_torch_functions_accept_state_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = state_array([1.0, 2.0]), state_array([3.0, 4.0])
    assert torch.stack((one, two)).tolist() == [[1, 2], [3, 4]]  # in a tuple
    assert torch.cat([one, torch.zeros(1)]).tolist() == [1, 2, 0]  # beside a tensor
    assert torch.add(torch.ones(2), other=one).tolist() == [2, 3]  # by name
    assert torch.sum(one).item() == 3.0
    assert type(torch.add(one, two)) is torch.Tensor
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match="import torch before"):
        one.tensor()


def test_to_torch_order_and_memory() -> None:
    config = LSTMConfig(2, 3)
    params = {name: np.ones(shape, np.float32) for name, shape in param_shapes(config).items()}
    backwards = dict(reversed(params.items()))
    found = to_torch(backwards, config, prefix="a.")
    assert list(found) == [f"a.{name}" for name in params]
    assert all(type(array) is StateArray for array in found.values())
    assert all(np.shares_memory(found[f"a.{name}"], params[name]) for name in params)
    del backwards["weight_hh_l0"]
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        to_torch(backwards, config)


class Model(torch.nn.Module):
    batch_first = True  # of no LSTM

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
    for prefix in ("module.encoder.", "module.encoder", "encoder"):
        params, config = from_torch(model, prefix=prefix)
        assert config == LSTMConfig(4, 5, 2, batch_first=True, dropout=0.25, bidirectional=True)
        expected = model.module.encoder.state_dict()["weight_hh_l1_reverse"].numpy()
        np.testing.assert_array_equal(params["weight_hh_l1_reverse"], expected)
    for prefix, message in (
        ("", r"prefix must select one of.*'module.encoder.', 'module.decoder.'"),
        ("coder", r"prefix 'coder' matches no LSTM.*'module.encoder.'"),
        ("other", "prefix 'other' selects a GRU"),
    ):
        with pytest.raises(ValueError, match=message):
            from_torch(model, prefix=prefix)


def test_batch_first_and_dropout() -> None:
    """A state dict has neither, and a cell takes neither."""
    state_dict = Model().state_dict()
    _, config = from_torch(state_dict, prefix="encoder", batch_first=True, dropout=0.5)
    assert config == LSTMConfig(4, 5, 2, batch_first=True, dropout=0.5, bidirectional=True)
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    assert from_torch(arrays, prefix="encoder")[1] == LSTMConfig(4, 5, 2, bidirectional=True)
    _, cell = from_torch(torch.nn.LSTMCell(2, 3), batch_first=True, dropout=0.5)
    assert (cell.batch_first, cell.dropout) == (False, 0.0)


def test_all_wrong_keys_are_reported_at_once() -> None:
    state_dict: dict[str, Any] = dict(torch.nn.LSTM(4, 5, 2).state_dict())
    del state_dict["bias_hh_l1"]
    state_dict["weight_ih_l1"] = torch.zeros(20, 6)
    state_dict["weight_ih_l3"] = torch.zeros(20, 5)
    for function in (from_torch, find_lstms):
        with pytest.raises(ValueError, match="is invalid") as caught:
            function(state_dict)
        assert "missing bias_hh_l1 (20,)" in str(caught.value)
        assert "unexpected weight_ih_l3 (20, 5)" in str(caught.value)
        assert "weight_ih_l1 has shape (20, 6), expected (20, 5)" in str(caught.value)


INT8 = {name: tensor.to(torch.int8) for name, tensor in torch.nn.LSTM(3, 5).state_dict().items()}
NO_LSTM = [
    ({f"a{k}": np.zeros(1) for k in range(6)}, ValueError, r"its 6 tensors are a0, a1, a2, a3, a4, \.\.\.$"),
    (torch.nn.Linear(3, 4), ValueError, r"no LSTM; its 2 tensors are weight, bias$"),
    (torch.nn.GRU(4, 5), ValueError, "the root is a GRU; only LSTM and LSTMCell"),
    (
        torch.nn.ModuleDict({"g": torch.nn.GRU(2, 3), "r": torch.nn.RNN(2, 3)}),
        ValueError,
        r"no LSTM: g\. is a GRU, r\. is an RNN; only",
    ),
    ({}, ValueError, "it is empty"),
    ({"lstm._all_weight_values.0.param": np.zeros(3)}, ValueError, "quantized one.*convert the float model"),
    ("model.pt", TypeError, r"must be .* a mapping.*got str; use jaxlstm.load"),
    (torch.nn.LSTM(4, 5, dtype=torch.float64), TypeError, "weight_ih_l0 is float64"),
    # The quantized form of weights, whose scales are elsewhere.
    (INT8, TypeError, "weight_ih_l0 must be float16, bfloat16, float32 or float64, got"),
]


@pytest.mark.parametrize(("source", "error", "message"), NO_LSTM, ids=range(len(NO_LSTM)))
def test_sources_that_are_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_torch(source)


def test_modules_of_torch_are_no_arguments() -> None:
    module: Any = torch.nn.LSTM(4, 5)
    for function in (to_torch, find_lstms):
        with pytest.raises(TypeError, match="got LSTM; "):
            function(module)


def test_dtype() -> None:
    params, _ = from_torch(torch.nn.LSTM(4, 5, dtype=torch.float64), dtype=jnp.float32)
    assert all(p.dtype == jnp.float32 for p in params.values())
    with pytest.raises(TypeError, match="weight_ih_l0 must be float16"):
        from_torch(INT8, dtype="float32")
