"""Packed sequences in from_module: torch's values and gradients at other batches, times and lengths."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.nn.utils.rnn import pack_padded_sequence as pack
from torch.nn.utils.rnn import pad_packed_sequence as unpack

import jaxlstm
from jaxlstm.check import verify_model
from jaxlstm.inference import compile
from jaxlstm.inference.random_inputs import random_inputs
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2 import packed as packed_operators
from testing.gradients import assert_close, require_equal
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.processes import run_python
from testing.written import written_program
from testing.zoo.packed import EXAMPLE, LONGER, batch, changed_in_place, in_order, model_of, plain


@pytest.fixture(scope="module")
def program() -> jaxlstm.Program:
    return jaxlstm.from_module(model_of(plain), batch(*EXAMPLE))


def total(leaves: Iterable[Tensor]) -> Tensor:
    return torch.stack([leaf.sin().sum() for leaf in leaves if leaf.is_floating_point()]).sum()


@pytest.mark.parametrize("is_sorted", [True, False])
def test_pack_sequence(is_sorted: bool) -> None:
    """Sequences of free lengths; sorted ones are required in their order."""

    def forward(self: Any, *sequences: Tensor) -> Any:
        y, state = self.lstm(pack_sequence(list(sequences), enforce_sorted=is_sorted))
        return unpack(y)[0], state, pad_sequence(list(sequences), padding_value=1.0, padding_side="left")

    model = model_of(forward)
    program = jaxlstm.from_module(model, (torch.rand(5, 3), torch.rand(4, 3)))
    require_equal(program, model, torch.rand(7, 3), torch.rand(2, 3))
    if is_sorted:
        with pytest.raises(ProgramError, match=r"decreasing, got \[2, 7\]; pack with enforce_sorted=False"):
            program(program.params, np.ones((2, 3), np.float32), np.ones((7, 3), np.float32))
    else:
        require_equal(program, model, torch.rand(2, 3), torch.rand(7, 3))


def test_under_jit_a_batch_is_as_long_as_its_padding(program: jaxlstm.Program) -> None:
    model = model_of(plain)
    x, lengths = batch([4, 3, 2], 7)
    y, n, (h, _) = jax.jit(program)(program.params, x.numpy(), lengths.numpy())
    expected = model(x, lengths)
    np.testing.assert_allclose(y[:, :4], to_numpy(expected[0]), atol=1e-5)
    assert y.shape[1] == 7
    assert not y[:, 4:].any()
    np.testing.assert_array_equal(n, [4, 3, 2])
    np.testing.assert_allclose(h, to_numpy(expected[2][0]), atol=1e-5)


def _mask(y: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(y.shape[1])[None] < lengths[:, None]


def _attended(self: Any, y: Tensor, lengths: Tensor) -> Any:
    weights = y.sum(-1).masked_fill(~_mask(y, lengths), -1e9).softmax(1)
    return (weights[..., None] * y).sum(1), weights[:, None] @ y


def _encoded(self: Any, y: Tensor, lengths: Tensor) -> Any:
    steps = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).triu(1)
    causal = self.attention(y, y, y, attn_mask=steps, need_weights=False)[0]
    query, bias = y.new_ones(len(y), 2, 4), y.new_ones(y.shape[1], y.shape[1])
    return {
        "scores": (y @ y.mT / 2).softmax(-1) @ y,
        "both axes": (y @ y.mT).max(-1)[0].sum(1) + (y @ y.mT).mean((1, 2))[:, None],
        "masked": self.attention(y, y, y, key_padding_mask=~_mask(y, lengths))[0].mean(1),
        "causal": causal.sum(1)
        + functional.scaled_dot_product_attention(y, y, y, is_causal=True)[:, 1:].sum(1),
        "other queries": functional.scaled_dot_product_attention(query, y, y),
        "biased": self.attention(y, y, y, attn_mask=bias, need_weights=False)[0].mean(1),
        "encoder": self.encoder(y, src_key_padding_mask=~_mask(y, lengths)).mean(1),
        "equations": torch.einsum("bti,btj->bij", y, y),
        "equation of scores": torch.einsum("bti,bsi->bts", y, y).softmax(-1).sum(1),
    }


def _windows(self: Any, y: Tensor, lengths: Tensor) -> Any:
    x, pooled = y.mT, (functional.max_pool1d, functional.avg_pool1d)
    return {
        "convolution": self.convolution(x).amax(2),
        "steps": self.strided(x).relu().mean(2),
        "another layer": self.after(self.convolution(x).mT)[0].sum(1),
        "over images": functional.conv2d(x[:, None], self.kernel, padding=(1, 2)).amax(3),
        "pools": [pool(x, 2).sum(2) for pool in pooled],
        "padded pool": functional.max_pool1d(x, 3, 2, 1).mean(2),
        "all steps": [pool(x, x.shape[2]) for pool in pooled],
        "whole": [functional.adaptive_max_pool1d(x, 1), functional.adaptive_avg_pool1d(x, 1)],
    }


# Name -> a function of the padded batch and the lengths.
AFTER_PACKING: dict[str, Callable[..., Any]] = {
    "mean": lambda self, y, n: y.mean(1),
    "attention": _attended,
    "first step backwards": lambda self, y, n: y.flip(1)[:, 0],
    "reductions": lambda self, y, n: [
        *(y.max(1)[0], y.var(1), y.std(1), y.logsumexp(1), y.norm(dim=1), y.topk(2, dim=1)[0].mean(1)),
        *(y.sum(1) / y.shape[1], (y * _mask(y, n)[..., None]).sum(1) / n[:, None], y.argmax(1)),
        (y.half().mean(1) > -9).float(),  # in half precision
    ],
    "steps": lambda self, y, n: [
        *(y[:, -1], y[:, 1:].sum(1), self.after(y)[0][:, -1], y.reshape(-1, y.shape[2]).mean(0)),
        y.gather(1, (n - 1)[:, None, None].expand(-1, 1, y.shape[2]))[:, 0],
        y.reshape(-1, y.shape[2]).view(y.shape[0], -1, y.shape[2]).sum(1),
    ],
    # Sizes that fall with the number of steps, or go up and down.
    "missing steps": lambda self, y, n: [
        y.sum(1) + torch.arange(8 - y.shape[1]).sum() + torch.ones(y.shape[1] % 4).sum(),
        torch.cat([y, y.new_ones(y.shape[0], 7 - y.shape[1], 4)], 1).mean(1),
        functional.pad(y, (1, 0, 2, 7 - y.shape[1]), value=2.0).mean(1),
        *(functional.pad(y, pad).logsumexp(1) for pad in ((0, 0, 1, 1), (0, 0, 0, 4 - y.shape[1]))),
        y[:, : 6 - y.shape[1]].sum(1) + torch.ones(max(7 - y.shape[1], 2)).sum(),
    ],
    "encoder": _encoded,
    "windows": _windows,
}
UNPROVEN_AFTER_PACKING: dict[str, Callable[..., Any]] = {
    "roll": lambda self, y, n: y.roll(1, 1)[:, 0],
    "parts": lambda self, y, n: functional.adaptive_avg_pool1d(y.mT, 2),
}


@pytest.mark.quick("attention", "reductions", "parts", "roll", "missing steps", "first step backwards")
@pytest.mark.parametrize("name", [*AFTER_PACKING, *UNPROVEN_AFTER_PACKING])
def test_steps_after_the_longest_sequence_do_not_count_under_jit(name: str) -> None:
    """Torch's values and gradients, or NaN, where the padding is longer than the longest sequence."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        rows = pack(x, lengths, batch_first=True, enforce_sorted=False)
        y, n = unpack(self.lstm(rows)[0], batch_first=True)
        return {**AFTER_PACKING, **UNPROVEN_AFTER_PACKING}[name](self, y + 1, n)

    layers = {
        "lstm": nn.LSTM(2, 4, batch_first=True),
        "after": nn.GRU(4, 3, batch_first=True),
        "attention": nn.MultiheadAttention(4, 2, batch_first=True),
        "encoder": nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        "convolution": nn.Conv1d(4, 4, 3, padding="same"),
        "strided": nn.Conv1d(4, 5, 3, stride=2),
    }
    model = module_of(forward, **layers).eval()
    model.register_buffer("kernel", torch.randn(2, 1, 3, 4))
    program = jaxlstm.from_module(model, (torch.randn(3, 6, 2), torch.tensor([3, 6, 5])))
    for lengths in ([6, 3, 2], [2, 3, 1]):
        args = torch.randn(3, 6, 2), torch.tensor(lengths)
        if name in AFTER_PACKING or max(lengths) == 6:
            require_equal(program, model, *args)
        else:
            arrays = [*map(to_numpy, args)]
            assert np.isnan(jax.jit(program)(program.params, *arrays)).all()
            result = compile(program)(*arrays)
            assert isinstance(result, np.ndarray)
            np.testing.assert_allclose(result, to_numpy(model(*args)), atol=1e-5)


@pytest.mark.quick("attention")
@pytest.mark.parametrize("name", ["attention", "roll", "first step backwards"])
def test_a_program_after_packing_is_a_reference(name: str) -> None:
    """Where jit does not know the steps, it runs outside of jit."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        y, n = unpack(pack(x, lengths, batch_first=True, enforce_sorted=False), batch_first=True)
        return {**AFTER_PACKING, **UNPROVEN_AFTER_PACKING}[name](self, self.linear(y), n)

    model, args = (
        module_of(forward, linear=nn.Linear(2, 4)).eval(),
        (torch.randn(3, 6, 2), torch.tensor([3, 4, 1])),
    )
    program = jaxlstm.from_module(model, args)
    for ours, theirs in ((program, model), (program, program)):
        report = verify_model(ours, theirs, args)
        assert report.ok, str(report)


@pytest.mark.slow
def test_sizes_that_must_agree() -> None:
    """The number of features is fixed by the weights, and lengths are as many as sequences."""
    program = jaxlstm.from_module(model_of(changed_in_place), batch(*EXAMPLE))
    assert [declared.type and declared.type.shape[2:] for declared in program.inputs] == [(3,), ()]
    with pytest.raises(ProgramError, match="must have the size of axis 0 of input"):
        program(program.params, np.ones((3, 5, 3), np.float32), np.array([5, 3]))
    with pytest.raises(ProgramError, match="packs its sequences by lengths that it takes or computes"):
        program(program.params, *map(to_numpy, batch(*EXAMPLE)), seq_lengths=np.array([5, 3, 2]))


@pytest.mark.slow
def test_threads() -> None:
    """Exports in two threads do not overlap: each replaces attributes of torch, and restores them."""
    lock, are_alone = threading.Lock(), []

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        are_alone.append(lock.acquire(blocking=False))
        time.sleep(1)
        if are_alone[-1]:
            lock.release()
        return plain(self, x, lengths)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(jaxlstm.from_module, model_of(forward), batch(*EXAMPLE)) for _ in range(2)]
    assert all(call.result() for call in calls)
    assert are_alone == [True, True]


def test_lengths_that_torch_refuses(program: jaxlstm.Program) -> None:
    for lengths in ([8, 2, 1], [3, 0, 1]):
        with pytest.raises(ProgramError, match=r"between 1 and .* 7; got [80].*\[guard"):
            program(program.params, *map(to_numpy, batch(lengths, 7)))


@pytest.mark.slow
def test_a_condition_on_the_longest_sequence() -> None:
    """It is decided for a batch without steps of padding only; others are exported again, outside of jit."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        lengths, x = lengths.sort(descending=True)[0], x * 1
        packed = pack(x, lengths, True)
        x *= 0
        y, _ = self.lstm(packed)
        return unpack(y, True)[0].sum(1) if packed.batch_sizes.size(0) > 2 else x

    model = model_of(forward)
    program = jaxlstm.from_module(model, batch(*EXAMPLE))
    require_equal(program, model, *batch([4, 7], 7))
    padded = batch([4, 3], 7)
    expected = model(*padded).detach()
    np.testing.assert_allclose(program(program.params, *map(to_numpy, padded)), expected, atol=1e-6)
    assert np.isnan(jax.jit(program)(program.params, *map(to_numpy, padded))).all()
    with pytest.warns(UserWarning, match="not take its example: .* must be as long as its padding: cut the"):
        jaxlstm.from_module(model, padded)


def test_a_batch_that_the_model_pads_again(tmp_path: Path) -> None:
    """Batches with and without steps of padding are two branches, also in a file."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = unpack(self.lstm(pack(x, lengths, batch_first=True, enforce_sorted=False))[0], True)
        if y.size(1) < x.size(1):
            y = torch.cat([y, torch.ones(y.size(0), x.size(1) - y.size(1), y.size(2))], 1)
        return y

    model = module_of(forward, lstm=nn.LSTM(2, 4, batch_first=True))
    program = jaxlstm.from_module(model, (torch.randn(3, 6, 2), torch.tensor([3, 4, 1])))
    program.save(tmp_path / "padded.pt2")
    loaded = jaxlstm.load_program(tmp_path / "padded.pt2")
    written = written_program(program)
    for lengths in ([4, 7], [4, 3]):
        args = torch.randn(2, 7, 2), torch.tensor(lengths)
        require_equal(program, model, *args)
        require_equal(loaded, model, *args)
        arrays = [*map(to_numpy, args)]
        expected = to_numpy(model(*args)) if max(lengths) == 7 else np.full((2, 7, 4), np.nan)
        np.testing.assert_allclose(jax.jit(lambda *args: written.model(*args))(*arrays), expected, atol=1e-5)


def test_a_sequence_longer_than_the_total_length() -> None:
    model = model_of(lambda self, x, n: unpack(pack(x * 1, n, enforce_sorted=False), total_length=9)[0])
    program = jaxlstm.from_module(model, (torch.rand(5, 3, 2), torch.tensor([5, 3, 4])))
    with pytest.raises(ProgramError, match="the number of time steps, 9; got 10"):
        program(program.params, np.ones((10, 3, 2), np.float32), np.array([5, 10, 4]))


def test_a_total_length_that_jit_does_not_know() -> None:
    """Under jit, the program has the example's total length."""
    forward = lambda self, x, n: unpack(pack(x * 1, n), total_length=int(n.sum()))[0]  # noqa: E731
    model, args = model_of(forward), (torch.rand(5, 3, 2), torch.tensor([5, 4, 3]))
    program = jaxlstm.from_module(model, args)
    require_equal(program, model, *args, jit=False)
    x, _ = map(to_numpy, args)
    warning = r"unknown under jax.*has the values of the example.*NaN for others"
    with pytest.warns(UserWarning, match=warning):
        require_equal(program, model, *args)
    with pytest.warns(UserWarning, match=warning):
        y = jax.jit(program)(program.params, x, np.array([4, 4, 3]))
    assert np.isnan(y).all()


def test_a_total_length_that_is_the_longest() -> None:
    forward = lambda self, x, n: unpack(pack(x * 1, n), total_length=int(n.max()))[0]  # noqa: E731
    model, x = model_of(forward), torch.rand(5, 3, 2)
    program = jaxlstm.from_module(model, (x, torch.tensor([5, 4, 3])))
    for lengths in ([5, 4, 3], [4, 4, 3]):
        y = jax.jit(program)(program.params, x.numpy(), np.array(lengths))
        np.testing.assert_array_equal(y[: lengths[0]], model(x, torch.tensor(lengths)))
        np.testing.assert_array_equal(y[lengths[0] :], 0)


def test_random_inputs_have_lengths(program: jaxlstm.Program) -> None:
    """One length for each sequence, from the number of steps downwards."""
    for each in (program, jaxlstm.from_module(model_of(changed_in_place), batch([5, 3, 2], 5))):
        inputs = random_inputs(each)
        assert inputs is not None
        x, lengths = inputs
        assert lengths.tolist() == [max(x.shape[1] - k, 1) for k in range(len(x))]
        each(each.params, x, lengths)


def test_file(tmp_path: Path) -> None:
    """One node of the graph is the LSTM; the file opens in torch too, and can be trained there."""
    model, args = model_of(in_order), batch(*LONGER)
    jaxlstm.from_module(model, batch(*EXAMPLE)).save(tmp_path / "packed.pt2")
    program = jaxlstm.load_program(tmp_path / "packed.pt2")
    require_equal(program, model, *args)
    assert [node.op for node in program.graph.nodes if "lstm." in node.op.partition("jax")[2]] == [
        "jaxlstm.pack_padded.default",
        "jaxlstm.packed_lstm.default",
        *["jaxlstm.pad_packed.default"] * 3,
    ]
    loaded = torch.export.load(tmp_path / "packed.pt2").module()
    for run in (model, loaded):
        run.zero_grad()
        total(jax.tree.leaves(run(*args))).backward()
    theirs = dict(loaded.named_parameters())
    for name, parameter in model.lstm.named_parameters(prefix="lstm"):
        torch.testing.assert_close(theirs[name].grad, parameter.grad)


@pytest.mark.slow
def test_check_of_a_file(tmp_path: Path) -> None:
    """A process that has not exported anything knows the operators of the file."""
    jaxlstm.from_module(model_of(in_order), batch(*EXAMPLE)).save(tmp_path / "packed.pt2")
    assert "the program HOLDS" in run_python("-m", "jaxlstm", "check", tmp_path / "packed.pt2")


FIELDS: dict[str, Callable[[PackedSequence], Any]] = {
    "tolist": lambda packed: packed.batch_sizes.tolist(),
    "sizes": lambda packed: [size * 2 for size in packed.batch_sizes],
    "sum": lambda packed: packed.data.sum(0),
    "size": lambda packed: list(packed.data.size()),
    "steps": lambda packed: packed.data[1:] + packed.data[:-1],
    "as weights": lambda packed: nn.functional.linear(torch.ones(2, 3), packed.data),
    "places": lambda packed: torch.where(packed.data > 0.5),
    "keywords": lambda packed: torch.log_softmax(input=packed.data, dim=1),
    "other data": lambda packed: unpack(PackedSequence(packed.data.cumsum(0), packed.batch_sizes)),
    "two batches": lambda packed: packed.data + pack(packed.data[None], [len(packed.data)], True).data,
    "result": lambda packed: packed,
}


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.quick("sizes", "sum", "steps", "places", "keywords", "other data", "result")
@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_torchs_tensors(name: str) -> None:
    """Where rows are not only packed and padded, their order is torch's."""
    model = model_of(lambda self, x, lengths: FIELDS[name](pack(x, lengths, True, False)))
    program = jaxlstm.from_module(model, batch(*EXAMPLE))
    for lengths in ([6, 6, 3, 1], [4, 5, 1, 2]):
        args = batch(lengths, max(lengths) if name in ("tolist", "sizes") else 6)
        expected, actual = model(*args), program(program.params, *map(to_numpy, args))
        assert_close(actual, expected._asdict() if name == "result" else expected, 1e-5)


def test_rows_that_change_in_place() -> None:
    model = model_of(
        lambda self, x, lengths: unpack(self.lstm(relu_in_place(pack(x, lengths, True, False)))[0])
    )
    with pytest.raises(ProgramError, match=r"changed in place.*\[unsupported-operator"):
        jaxlstm.from_module(model, batch(*EXAMPLE))


def relu_in_place(packed: PackedSequence) -> PackedSequence:
    packed.data[:, 1:].relu_()
    return packed


def test_a_packed_sequence_as_an_argument() -> None:
    packed = pack(torch.ones(3, 2, 3), torch.tensor([3, 2]))
    with pytest.raises(TypeError, match="must not hold a PackedSequence"):
        jaxlstm.from_module(nn.LSTM(3, 4).eval(), (packed,))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_operators_of_torch(layer: Callable[..., nn.RNNBase]) -> None:
    """The schemas, fake kernels and gradients are consistent, and training works in torch."""
    recurrence = layer(3, 4, bidirectional=True)
    name = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[layer]
    x, lengths = torch.rand(5, 3, 3, requires_grad=True), torch.tensor([4, 4, 2])
    state = [torch.rand(2, 3, 4, requires_grad=True) for _ in range(packed_operators.STATES[name])]
    y, final = recurrence(pack(x, lengths), tuple(state) if name == "lstm" else state[0])
    expected = unpack(y)[0], *(final if name == "lstm" else (final,))
    operators = torch.ops.jaxlstm
    cut = operators.pack_padded(x, lengths, False)
    args = (lengths, state, recurrence._flat_weights, True, 1, 0.0, False, True, False)
    operator = getattr(operators, f"packed_{name}")
    actual = operator(cut, *args)
    leaves = [x, *state, *recurrence.parameters()]
    gradients = [torch.autograd.grad(total(results), leaves) for results in (expected, actual)]
    torch.testing.assert_close((actual, gradients[1]), (expected, gradients[0]))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator.default, (cut.detach().requires_grad_(), *args), test_utils=checks)
    torch.library.opcheck(operators.pack_padded.default, (x, lengths, False), test_utils=checks)
    torch.library.opcheck(operators.pad_packed.default, (x, lengths, False, 2.0, 9), test_utils=checks)
    with pytest.raises(ValueError, match="from 1 to 5"):
        operators.pack_padded(x, lengths.flip(0), False)


def test_a_keyword_of_the_model_is_its_own() -> None:
    """``seq_lengths`` and ``buffers`` are options of a program, unless they are arguments of the model."""

    def forward(self: Any, x: Tensor, *, seq_lengths: Tensor, buffers: Tensor) -> Tensor:
        y = unpack(self.lstm(pack(x, seq_lengths, enforce_sorted=False))[0])[0] * buffers
        return y if x.shape[0] < 5 else y * 2

    model, lengths = model_of(forward), torch.tensor([2, 4])
    kwargs = {"seq_lengths": lengths, "buffers": torch.tensor(2.0)}
    program = jaxlstm.from_module(model, (torch.randn(4, 2, 3),), kwargs)
    x, arrays = torch.randn(6, 2, 3), dict[str, Any]((k, v.numpy()) for k, v in kwargs.items())
    for result in (program(program.params, x.numpy(), **arrays), compile(program)(x.numpy(), **arrays)):
        np.testing.assert_allclose(result[:4], model(x, **kwargs).detach(), atol=1e-5)
