"""Whole programs beside PyTorch, ONNX Runtime and OpenVINO.

Text recognisers, a tagger, a voice detector, a segmenter of speakers, an attention decoder and a loop of 400
steps, at the sizes of published ones. They run with ``inference.compile``, as jitted programs with weights as
arguments, in eager PyTorch, under ``torch.compile``, and as ONNX models. Two further columns tell how long
the first call takes, which compiles, and by how much the memory of the process grows.
"""

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.utils import fresh_cache

import jaxlstm
from benchmarks import peers
from benchmarks.parts import Settings
from benchmarks.report import LABELS
from benchmarks.timing import interleaved, spreads
from jaxlstm import inference
from testing.modules import module_of
from testing.processes import resident_bytes

Model = tuple[nn.Module, tuple[Any, ...]]
"""A model and its arguments."""


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time each model."""
    return _rows(MODELS, settings)


def gru(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time a GRU of each size."""
    return _rows(GRUS, settings)


def _rows(models: dict[str, Callable[[], Model]], settings: Settings) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(settings.threads)
    with fresh_cache():  # of code that torch.compile compiled
        for name in list(models)[-1:] if settings.tiny else models:
            yield row(name, models[name], settings)


def row(name: str, model: Callable[[], Model], settings: Settings) -> dict[str, Any]:
    """Time the implementations of a model on one input, after a check that they agree."""
    torch.manual_seed(0)
    module, args = model()
    program = jaxlstm.from_module(module, args)
    jitted, runner = jax.jit(program), inference.compile(program)
    hosts = [arg.numpy() for arg in args]
    arrays = [jax.numpy.asarray(host) for host in hosts]

    def in_torch(module: Callable[..., Any]) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return module(*args)

        return call

    sides = {
        "jaxlstm": lambda: runner(*hosts),
        "jaxlstm jit": lambda: jax.block_until_ready(jitted(program.params, *arrays)),
        "torch": in_torch(module),
        "torch-compile": in_torch(torch.compile(module)),
        **_as_onnx(module, args, settings),
    }
    expected = jax.tree.leaves(sides["torch"]())
    first, left_out = {}, {}
    for side in ("jaxlstm", "torch-compile"):
        start, before = time.perf_counter(), resident_bytes()
        if reason := _fault(sides[side]):
            del sides[side]
            left_out[side] = reason
        else:
            seconds, grown = time.perf_counter() - start, (resident_bytes() - before) / 2**20
            first[f"first call of {LABELS.get(side, side)}"] = f"{seconds:.2g} s, {grown:.0f} MB"
    for actual, theirs in zip(jax.tree.leaves(sides["jaxlstm"]()), expected, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=0, atol=1e-4)
    values = spreads(interleaved(sides, settings.rounds))
    return {"case": name, "unit": "ms", "values": values, "columns": first, "left_out": left_out}


def _as_onnx(module: nn.Module, args: tuple[Any, ...], settings: Settings) -> dict[str, Callable[[], Any]]:
    """Return the runs of the model in the runtimes for ONNX models."""
    names = [n for n in ("onnxruntime", "openvino") if n in settings.against and not peers.missing(n)]
    if not names:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(module, args, dynamo=True, verbose=False)
    assert exported is not None
    inputs = {value.name: arg.numpy() for value, arg in zip(exported.model.graph.inputs, args, strict=True)}
    model = exported.model_proto.SerializeToString()
    runs = {name: peers.load(name).session(model, settings.threads) for name in names}
    return {name: functools.partial(run, inputs) for name, run in runs.items()}


def _fault(call: Callable[[], Any]) -> str:
    """Compile; return the reason if that fails, for example without a C++ compiler."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except TorchDynamoException as error:
        return str(error).splitlines()[0]
    return ""


def text_recogniser() -> Model:
    """CRNN (Shi et al. 2015): seven convolutions and two bidirectional LSTM layers."""

    def forward(self: Any, images: Tensor) -> Tensor:
        x = self.cnn(images).squeeze(2).permute(2, 0, 1)
        return self.out(self.lstm(x)[0])

    def block(inputs: int, outputs: int, *, norm: bool = False) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [conv, nn.ReLU()]

    cnn = nn.Sequential(
        *(*block(1, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2)),
        *(*block(128, 256, norm=True), *block(256, 256), nn.MaxPool2d((2, 1))),
        *(*block(256, 512, norm=True), *block(512, 512), nn.MaxPool2d((2, 1))),
        *(nn.Conv2d(512, 512, (2, 1)), nn.BatchNorm2d(512), nn.ReLU()),
    )
    lstm = nn.LSTM(512, 256, num_layers=2, bidirectional=True)
    return module_of(forward, cnn=cnn, lstm=lstm, out=nn.Linear(512, 97)), (torch.randn(4, 1, 32, 256),)


def mobile_recogniser() -> Model:
    """A recogniser with the blocks of MobileNetV3 and a bidirectional LSTM."""

    def forward(self: Any, images: Tensor) -> Tensor:
        x = self.cnn(images).mean(2).transpose(1, 2)
        return self.out(self.lstm(x)[0])

    cnn = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()),
        _inverted_bottleneck(16, 72, 24, 3, (2, 1)),
        _inverted_bottleneck(24, 96, 24, 3, (1, 1)),
        _inverted_bottleneck(24, 144, 40, 5, (2, 1)),
        _inverted_bottleneck(40, 240, 40, 5, (1, 1)),
    )
    lstm = nn.LSTM(40, 128, bidirectional=True, batch_first=True)
    return module_of(forward, cnn=cnn, lstm=lstm, out=nn.Linear(256, 97)), (torch.randn(4, 3, 32, 128),)


def _inverted_bottleneck(
    inputs: int, width: int, outputs: int, kernel: int, stride: tuple[int, int]
) -> nn.Module:
    """A wide 1x1 convolution, a depthwise one, weights for the channels, and a narrow 1x1 (MobileNetV3)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.wide(x)
        y = self.narrow(y * self.weights(y))
        return x + y if stride == (1, 1) and inputs == outputs else y

    depthwise = nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False)
    wide = nn.Sequential(
        *(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish()),
        *(depthwise, nn.BatchNorm2d(width), nn.Hardswish()),
    )
    weights = nn.Sequential(
        *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.ReLU()),
        *(nn.Conv2d(width // 4, width, 1), nn.Hardsigmoid()),
    )
    narrow = nn.Sequential(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    return module_of(forward, wide=wide, weights=weights, narrow=narrow)


def tagger() -> Model:
    """Embedding, two bidirectional LSTM layers, linear."""

    def forward(self: Any, words: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(words))[0])

    embedding = nn.Embedding(10_000, 100)
    lstm = nn.LSTM(100, 200, num_layers=2, bidirectional=True, batch_first=True)
    module = module_of(forward, embedding=embedding, lstm=lstm, out=nn.Linear(400, 18))
    return module, (torch.randint(0, 10_000, (16, 40)),)


def voice_detector() -> Model:
    """The layers of Silero VAD: a Fourier transform as a convolution, four convolutions, an LSTMCell."""

    def forward(self: Any, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.pad(samples, (0, 64), mode="reflect").unsqueeze(1)
        real, imaginary = self.stft(x).chunk(2, dim=1)
        x = self.encoder(torch.sqrt(real**2 + imaginary**2))
        state = torch.stack(self.cell(x.mean(dim=-1), (state[0], state[1])))
        return self.out(state[0]), state

    encoder = nn.Sequential()
    stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
    for inputs, outputs, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)):
        encoder.extend([nn.Conv1d(inputs, outputs, 3, stride, padding=1), nn.ReLU()])
    cell, out = nn.LSTMCell(128, 128), nn.Sequential(nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())
    module = module_of(forward, stft=stft, encoder=encoder, cell=cell, out=out)
    return module, (torch.randn(1, 576), torch.randn(2, 1, 128))


def segmenter() -> Model:
    """The layers of pyannote's PyanNet: convolutions over samples, four LSTM layers, a label per frame."""

    def forward(self: Any, samples: Tensor) -> Tensor:
        return self.out(self.lstm(self.frames(samples).transpose(1, 2))[0])

    frames = nn.Sequential()
    for inputs, outputs, kernel, stride in ((1, 80, 251, 10), (80, 60, 5, 1), (60, 60, 5, 1)):
        norm = nn.InstanceNorm1d(outputs, affine=True)
        frames.extend([nn.Conv1d(inputs, outputs, kernel, stride), nn.MaxPool1d(3), norm, nn.LeakyReLU()])
    lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
    out = nn.Sequential(nn.Linear(256, 128), nn.LeakyReLU(), nn.Linear(128, 7), nn.LogSoftmax(-1))
    return module_of(forward, frames=frames, lstm=lstm, out=out), (torch.randn(1, 1, 80_000),)


def attention_decoder() -> Model:
    """A cell that reads a sequence through additive attention, one character per step (Shi et al. 2016)."""

    def forward(self: Any, features: Tensor) -> Tensor:
        keys = self.keys(features)
        h = c = features.new_zeros(features.shape[0], 256)
        character = torch.zeros(features.shape[0], dtype=torch.long)
        logits = []
        for _ in range(25):
            weights = self.score(torch.tanh(keys + self.query(h).unsqueeze(1))).softmax(1)
            x = torch.cat([(weights * features).sum(1), self.characters(character)], 1)
            h, c = self.cell(x, (h, c))
            logits.append(self.out(h))
            character = logits[-1].argmax(1)
        return torch.stack(logits, 1)

    module = module_of(
        forward,
        keys=nn.Linear(512, 256, bias=False),
        query=nn.Linear(256, 256),
        score=nn.Linear(256, 1),
        characters=nn.Embedding(97, 64),
        cell=nn.LSTMCell(512 + 64, 256),
        out=nn.Linear(256, 97),
    )
    return module, (torch.randn(4, 64, 512),)


def cell_loop() -> Model:
    """An LSTMCell in a Python loop over 400 steps, which an export unrolls."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 128)
        outputs = []
        for step in range(400):
            h, c = self.cell(x[:, step], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1)

    return module_of(forward, cell=nn.LSTMCell(64, 128)), (torch.randn(4, 400, 64),)


def gru_layer(time: int, batch: int, input_size: int, hidden_size: int) -> Model:
    """A GRU of one layer."""
    return nn.GRU(input_size, hidden_size), (torch.randn(time, batch, input_size),)


GRUS: dict[str, Callable[[], Model]] = {
    ", ".join(map(str, (*sizes, 1))): functools.partial(gru_layer, *sizes)
    for sizes in ((100, 16, 256, 256), (100, 1, 128, 128), (50, 32, 512, 512), (400, 4, 64, 128))
}
MODELS = {
    "text recogniser, 4 lines of 32 x 256": text_recogniser,
    "mobile recogniser, 4 lines of 32 x 128": mobile_recogniser,
    "tagger, 16 sentences of 40 words": tagger,
    "segmenter of speakers, 5 s": segmenter,
    "attention decoder, 4 x 25 steps": attention_decoder,
    "loop over a cell, 400 steps": cell_loop,
    "voice detector, 1 window": voice_detector,
}
