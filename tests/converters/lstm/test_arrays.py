"""Arrays are converted between torch and NumPy bit for bit, whatever their layout."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from jaxlstm import LSTMConfig, param_shapes, to_torch
from jaxlstm._shared.torch_tensors import as_numpy
from jaxlstm_converters.lstm._from_torch import from_torch
from jaxlstm_converters.lstm._to_torch import StateArray
from jaxlstm_converters.lstm.fold import WeightNorm
from jaxlstm_converters.lstm.select import select_lstm, with_fields

CONFIG = LSTMConfig(2, 3)
PARAMS = {name: np.ones(shape, np.float32) for name, shape in param_shapes(CONFIG).items()}


def state_array(values: Any) -> Any:
    return np.asarray(values).view(StateArray)


def test_tensors_to_numpy() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    np.testing.assert_array_equal(as_numpy(tensor), [[0, 3], [1, 4], [2, 5]])
    assert as_numpy(tensor).flags.c_contiguous
    half = as_numpy(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert half.dtype == ml_dtypes.bfloat16
    assert half.tolist() == [1.5, -2.0]
    assert as_numpy(torch.tensor([1.5], dtype=torch.float16)).dtype == np.float16


def test_native_arrays_are_not_copied() -> None:
    native = np.arange(3.0)
    assert as_numpy(native) is native or as_numpy(native).base is native
    swapped = as_numpy(native.astype(">f8"))
    assert swapped.dtype.isnative
    np.testing.assert_array_equal(swapped, native)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_state_array_is_copied_to_a_tensor(dtype: Any) -> None:
    ours = state_array(np.arange(6).reshape(2, 3).astype(dtype).T)  # not contiguous
    tensor = ours.tensor()
    assert tensor.is_contiguous()
    assert str(tensor.dtype) == f"torch.{np.dtype(dtype)}"
    assert tensor.tolist() == [[0, 3], [1, 4], [2, 5]]
    tensor[0, 0] = 7
    assert float(ours[0, 0]) == 0


def test_torch_functions_accept_state_arrays() -> None:
    one, two = state_array([1.0, 2.0]), state_array([3.0, 4.0])
    assert torch.stack((one, two)).tolist() == [[1, 2], [3, 4]]  # in a tuple
    assert torch.cat([one, torch.zeros(1)]).tolist() == [1, 2, 0]  # beside a tensor
    assert torch.add(torch.ones(2), other=one).tolist() == [2, 3]  # by name
    assert torch.sum(one).item() == 3.0
    assert type(torch.add(one, two)) is torch.Tensor


def test_a_state_array_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match="import torch before"):
        state_array([1.0]).tensor()


def test_to_torch_order_and_memory() -> None:
    backwards = dict(reversed(PARAMS.items()))
    found = to_torch(backwards, CONFIG, prefix="a.")
    assert list(found) == [f"a.{name}" for name in PARAMS]
    assert all(type(array) is StateArray for array in found.values())
    assert all(np.shares_memory(found[f"a.{name}"], PARAMS[name]) for name in PARAMS)
    del backwards["weight_hh_l0"]
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        to_torch(backwards, CONFIG)


def test_arguments_override_hints() -> None:
    config = LSTMConfig(2, 3, num_layers=2)
    both = {f"{p}.{n}": np.ones(s) for p in "ab" for n, s in param_shapes(config).items()}
    hints = {"a.": {"batch_first": True, "dropout": 0.5}, "b.": {"dropout": 0.25}}

    for prefix, batch_first, dropout in (("a", True, 0.5), ("b", False, 0.25)):
        arrays, hinted, unrecorded, _ = select_lstm(both, prefix=prefix, hints=hints)
        assert unrecorded == (() if prefix == "a" else ("batch_first",))
        assert list(arrays) == list(param_shapes(config))
        assert (hinted.batch_first, hinted.dropout) == (batch_first, dropout)
        changed = with_fields(hinted, batch_first=not batch_first, dropout=0.0)
        assert (changed.batch_first, changed.dropout) == (not batch_first, 0.0)
        assert with_fields(hinted, batch_first=None, dropout=None) == hinted
    assert select_lstm(both, prefix="a")[1:] == (config, ("batch_first", "dropout"), "")


def test_a_cell_has_neither_batch_first_nor_dropout() -> None:
    cell = torch.nn.LSTMCell(2, 3)
    _, config = from_torch(cell, batch_first=True, dropout=0.5)
    assert (config.batch_first, config.dropout) == (False, 0.0)


def test_weight_norm() -> None:
    v = np.array([[3.0, 4.0], [6.0, 8.0]], np.float32)
    folded = WeightNorm(g=np.array([[10.0], [1.0]], np.float32), v=v)
    assert (folded.shape, folded.dtype, folded.nbytes) == ((2, 2), np.float32, 16)
    np.testing.assert_allclose(np.asarray(folded), [[6, 8], [0.6, 0.8]], rtol=1e-6)
    assert np.asarray(folded).dtype == np.float32
    assert np.asarray(folded, dtype=np.float64).dtype == np.float64
    columns = WeightNorm(g=np.array([[5.0, 1.0]], np.float32), v=np.array([[3.0, 0], [4.0, 2.0]]))
    np.testing.assert_allclose(np.asarray(columns), [[3, 0], [4, 1]])
    whole = WeightNorm(g=np.array([[5.0]], np.float32), v=np.array([[3.0, 4.0]]))  # all axes
    np.testing.assert_allclose(np.asarray(whole), [[3, 4]])


def test_batch_first_of_another_module_is_ignored() -> None:
    class Other(torch.nn.Module):
        batch_first = True

        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 3, num_layers=2, dropout=0.5)

    _, config = from_torch(Other())
    assert config == LSTMConfig(2, 3, num_layers=2, dropout=0.5)
