"""Exports, torch's own calls, programs and pickles in several threads give the results of one thread."""

import logging
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import jaxlstm
from jaxlstm._shared.own_thread import ByThread
from testing.modules import module_of
from testing.seeds import seeds


def random_model(rng: random.Random) -> Any:
    """Return a module of a packed or plain layer, and a cell in a loop, with sizes in its code."""
    layer = rng.choice([nn.LSTM, nn.GRU, nn.RNN])(3, 3, batch_first=True, bidirectional=rng.random() < 0.3)
    cell, packs = (
        rng.choice([nn.LSTMCell, nn.GRUCell, nn.RNNCell])(6 if layer.bidirectional else 3, 3),
        rng.random(),
    )

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        if packs < 0.7:
            packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x = rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        else:
            x = self.layer(x)[0]
        state: Any = None
        for step in range(min(2, x.shape[1])):
            state = self.cell(x[:, step].tanh(), state)
        return x.sum(2) + (state[0] if isinstance(state, tuple) else state)[:, : max(1, int(1.5))]

    return module_of(forward, layer=layer, cell=cell)


def tasks_of(seed: int) -> list[Callable[[], list[np.ndarray]]]:
    """Return an export with calls of the program and of its pickle, and calls of it and another in torch."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = random_model(rng)
    others = [model, random_model(rng)]  # The exported module runs, too.
    batches = [(torch.randn(3, 5, 3), torch.tensor(rng.sample([5, *rng.sample(range(1, 6), 2)], 3)))]
    batches.append((torch.randn(2, 6, 3), torch.tensor([6, 4])))

    def exported() -> list[np.ndarray]:
        program = jaxlstm.from_module(model, batches[0])
        calls = [program, pickle.loads(pickle.dumps(program))]
        return [np.asarray(call(call.params, *map(np.asarray, batches[0]))) for call in calls]

    def eager(model: Any) -> list[np.ndarray]:
        outputs = [model(*batch) for batch in batches]
        gradients = torch.autograd.grad([y.sum() for y in outputs], list(model.parameters()))
        return [tensor.detach().numpy() for tensor in (*outputs, *gradients)]

    return [exported, *(partial(eager, other) for other in others)]


@pytest.mark.filterwarnings("ignore:from_module. input lengths has no effect")
@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_tasks_in_threads(seed: int) -> None:
    tasks = tasks_of(seed)
    expected = [task() for task in tasks]
    is_over = threading.Event()

    def repeat(task: Callable[[], list[np.ndarray]], right: list[np.ndarray]) -> int:
        count = 0
        while count < 1000 and not (count and is_over.is_set()):
            for ours, theirs in zip(task(), right, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            count += 1
        return count

    with ThreadPoolExecutor(len(tasks) - 1) as pool:
        counts = [pool.submit(repeat, *pair) for pair in zip(tasks[1:], expected[1:], strict=True)]
        try:
            for ours, theirs in zip(tasks[0](), expected[0], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        finally:
            is_over.set()
    assert all(count.result() for count in counts)


def seen() -> dict[tuple[str, str], Any]:
    """Return what this thread sees of torch: its functions, classes and their attributes."""

    def present(owner: Any) -> dict[str, Any]:
        members = dict(vars(owner))
        return {name: v._present() if type(v) is ByThread else v for name, v in members.items()}

    paths = [path for path in sys.modules if path.partition(".")[0] == "torch"]
    found = {(path, name): value for path in paths for name, value in present(sys.modules[path]).items()}
    kinds = [(key, value) for key, value in found.items() if issubclass(type(value), type)]
    found |= {(str(key), name): value for key, kind in kinds for name, value in present(kind).items()}
    return {key: v for key, v in found.items() if callable(v) or type(v) in (bool, classmethod, property)}


FLAGS = ("_is_compiling_flag", "_is_exporting_flag", "_is_fx_tracing_flag", "_is_in_torch_dispatch_mode")
"""Flags of torch.export for the whole process."""


def test_what_another_thread_sees(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    handler: Any = logging.NullHandler()
    handler.handle = lambda record: logged.append(record.msg)
    monkeypatch.setattr(logging.getLogger(__name__), "handlers", [handler])
    changed: list[Any] = []
    before: dict[tuple[str, str], Any] = {}

    def look() -> None:
        after = seen()
        changed.extend(key for key, value in before.items() if after.get(key) is not value)
        print("printed", file=sys.stderr)
        logging.getLogger(__name__).warning("logged")
        with pytest.warns(UserWarning, match="warned"):
            warnings.warn("warned", UserWarning, stacklevel=1)

    def forward(self: Any, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            with ThreadPoolExecutor(1) as pool:
                pool.submit(look).result()
        print("not printed", file=sys.stderr)
        logging.getLogger(__name__).warning("not logged")
        return self.lstm(x)[0]

    model = module_of(forward, lstm=nn.LSTM(3, 3))
    jaxlstm.from_module(model, (torch.ones(4, 2, 3),))
    before |= seen()
    changed.clear()
    capsys.readouterr()
    jaxlstm.from_module(model, (torch.ones(4, 2, 3),))
    assert {name for _, name in changed} <= {*FLAGS, "_assert_is_none", "dict_keys_getitem"}
    shown = capsys.readouterr().err
    assert "not printed" not in shown
    assert "printed" in shown
    assert set(logged) == {"logged"}
