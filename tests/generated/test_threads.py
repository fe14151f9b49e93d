"""Exports, torch's own calls, programs and pickles in several threads give what they give in one."""

import logging
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

KINDS: list[Callable[..., nn.Module]] = [nn.LSTM, nn.GRU, nn.RNN]
CELLS: list[Callable[..., nn.Module]] = [nn.LSTMCell, nn.GRUCell, nn.RNNCell]


def random_model(rng: random.Random) -> nn.Module:
    """Return layers over a packed batch, a cell in a loop, or both, with sizes in the code."""
    layers = nn.ModuleList(
        rng.choice(KINDS)(3, 3, batch_first=True, bidirectional=rng.random() < 0.3)
        for _ in range(rng.randint(1, 2))
    )
    cell, packs, loops, doubled = (
        rng.choice(CELLS)(3, 3),
        rng.random() < 0.7,
        rng.random() < 0.5,
        rng.random() < 0.5,
    )

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        for layer in self.layers:
            if packs:
                packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                x = rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]
            else:
                x = layer(x)[0]
            x = x[..., :3].tanh()
        state = None
        for step in range(int(loops) * min(2, x.shape[1])):
            state = self.cell(x[:, step], state)
        if state is not None:
            x = x + (state[0] if isinstance(state, tuple) else state)[:, None]
        return x * 2 if doubled and x.shape[0] > max(1, int(1.5)) else x

    return module_of(forward, layers=layers, cell=cell)


def random_batch(rng: random.Random) -> tuple[Tensor, Tensor]:
    batch, time_steps = rng.randint(2, 4), rng.randint(2, 6)
    lengths = [time_steps, *(rng.randint(1, time_steps) for _ in range(batch - 1))]
    rng.shuffle(lengths)
    return torch.randn(batch, time_steps, 3), torch.tensor(lengths)


def tasks_of(seed: int) -> list[Callable[[], list[np.ndarray]]]:
    """Return random calls, each of which returns arrays."""
    rng = random.Random(seed)
    torch.manual_seed(seed)

    def eager(model: nn.Module, batches: list[Any]) -> list[np.ndarray]:
        outputs = [model(*batch) for batch in batches]
        gradients = torch.autograd.grad(sum(y.sum() for y in outputs), list(model.layers.parameters()))
        return [tensor.detach().numpy() for tensor in (*outputs, *gradients)]

    def exported(model: nn.Module, batch: Any) -> list[np.ndarray]:
        program = jaxlstm.from_module(model, batch)
        calls = [program, pickle.loads(pickle.dumps(program))]
        return [np.asarray(call(call.params, *map(np.asarray, batch))) for call in calls]

    tasks: list[Callable[[], list[np.ndarray]]] = []
    for other in (random_model(rng), random_model(rng)):
        batches = [random_batch(rng) for _ in range(3)]
        tasks.append(lambda m=other, b=batches: eager(m, b))
    model = random_model(rng)
    return [lambda: exported(model, batches[0]), *tasks]


@pytest.mark.filterwarnings("ignore:from_module. input lengths has no effect")
@pytest.mark.parametrize("seed", seeds(fast=2, slow=100))
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
