"""Run published recurrent models through `jaxlstm.from_module`, and write the table of a page.

    pip install --no-deps -r tools/published_models.txt
    python -m tools.published_models docs/published_models.md [--torchscript]

With --torchscript, each model is first saved as a TorchScript archive, by torch.jit.script or else by
torch.jit.trace, whose values are the reference. Each model has random weights and is passed as its
package defines it. Its program runs jitted at the size of the example and at other sizes. The table has
the largest difference from torch, divided by the largest result, and without --torchscript the time of
eager torch, divided by the program's on the same threads. The exit status is 1 if a result is wrong.
"""

# pyright: reportMissingImports=false
import argparse
import copy
import importlib.metadata
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor
from torch.jit.frontend import FrontendError
from torch.utils import _pytree

import jaxlstm
from jaxlstm.programs import ProgramError

MARKER = "<!-- The table below is written by tools/published_models.py{}. -->\n"
TOLERANCE = 1e-4
"""Largest difference relative to the largest result: the models sum many float32 terms."""
ROUNDS = 9


class Model(NamedTuple):
    """A published model.

    Attributes:
        name: the package on the index and the class, as its users import it.
        sizes: arguments of several sizes; the first is the example of the export.
    """

    name: str
    module: torch.nn.Module
    sizes: Sequence[tuple[Any, ...]]


def _tokens(count: int, *shape: int) -> Tensor:
    return torch.randint(1, count, shape)


def _sized(make: Callable[..., tuple[Any, ...]], *sizes: tuple[int, ...]) -> list[tuple[Any, ...]]:
    return [make(*size) for size in sizes]


def _ragged(make: Callable[[int, int], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the arguments of ragged batches: made from (batch, time), and the lengths."""
    return [(*make(len(n), max(n)), torch.tensor(n)) for n in ([9, 6], [12, 8, 3])]


def audio_models() -> Iterator[Model]:
    """Yield models of speech and music."""
    from demucs.demucs import Demucs
    from encodec.modules.seanet import SEANetEncoder
    from torchaudio.models import DeepSpeech, Tacotron2, WaveRNN
    from torchaudio.models.tacotron2 import _Encoder

    randn = torch.randn
    sizes = _sized(lambda b, t: (randn(b, 1, t, 20),), (2, 7), (3, 9))
    yield Model("torchaudio models.DeepSpeech", DeepSpeech(20, 64, 10), sizes)
    wave = WaveRNN([2, 2, 3], 16, 12, n_rnn=32, n_fc=32, n_freq=20, n_hidden=24, n_output=16)
    sizes = _sized(lambda b, t: (randn(b, 1, 12 * t), randn(b, 1, 20, t + 4)), (2, 3), (3, 5))
    yield Model("torchaudio models.WaveRNN", wave, sizes)
    sizes = _ragged(lambda b, t: (randn(b, 32, t),))
    yield Model("torchaudio models.tacotron2._Encoder", _Encoder(32, 2, 5), sizes)
    sizes = _sized(
        lambda b, t, n: (_tokens(40, b, t), torch.full((b,), t), randn(b, 80, n), torch.full((b,), n)),
        *((2, 7, 5), (3, 9, 5)),
    )
    yield Model("torchaudio models.Tacotron2", Tacotron2(n_symbol=40), sizes)
    settings = {"channels": 1, "dimension": 16, "n_filters": 4, "ratios": [4, 2], "lstm": 2}
    sizes = _sized(lambda b, t: (randn(b, 1, t),), (2, 64), (3, 91))
    yield Model("encodec modules.seanet.SEANetEncoder", SEANetEncoder(**settings), sizes)
    sources = Demucs(["a", "b"], 2, 8, depth=3, lstm_layers=2, dconv_lstm=2, dconv_attn=3, resample=False)
    sizes = _sized(lambda b, t: (randn(b, 2, t),), (2, 3000), (3, 3000), (2, 4000))
    yield Model("demucs demucs.Demucs", sources, sizes)


def text_models() -> Iterator[Model]:
    """Yield models that read images of text, and models of words."""
    from doctr.models.recognition.crnn.pytorch import crnn_vgg16_bn
    from easyocr.model.vgg_model import Model as Recogniser
    from joeynmt.encoders import RecurrentEncoder
    from stanza.models.common.char_model import CharacterLanguageModel
    from stanza.models.tokenization.model import Tokenizer
    from supar.modules.lstm import CharLSTM

    randn = torch.randn
    crnn = crnn_vgg16_bn(pretrained=False, pretrained_backbone=False, exportable=True)
    yield Model(
        "python-doctr crnn_vgg16_bn", crnn, _sized(lambda b, t: (randn(b, 3, 32, t),), (2, 64), (3, 96))
    )
    sizes = _sized(lambda b, t: (randn(b, 1, 64, t), None), (2, 100), (3, 160))
    yield Model("easyocr model.vgg_model.Model", Recogniser(1, 64, 32, 40), sizes)
    settings = {"rnn_type": "lstm", "hidden_size": 16, "emb_size": 16, "num_layers": 2}
    masked = [
        (*args, torch.arange(max(args[1]))[None, None] < args[1][:, None, None])
        for args in _ragged(lambda b, t: (randn(b, t, 16),))
    ]
    yield Model("joeynmt encoders.RecurrentEncoder", RecurrentEncoder(**settings), masked)
    names = "feat_dim rnn_layers conv_res hier_conv_res use_mwt hierarchical hier_invtemp tok_noise"
    settings = dict(zip(names.split(), (4, 1, "1,9", True, True, True, 0.5, 0.02), strict=True))
    sizes = _ragged(lambda b, t: (_tokens(30, b, t), randn(b, t, 4)))
    tokenizer = Tokenizer(settings, 30, 16, 16, 0.3, 0.1)
    yield Model("stanza models.tokenization.model.Tokenizer", tokenizer, sizes)
    names = "char_emb_dim char_hidden_dim char_num_layers char_dropout char_rec_dropout"
    settings = dict(zip(names.split(), (16, 24, 1, 0.1, 0), strict=True))
    characters = CharacterLanguageModel(settings, {"char": list(range(30))})
    sizes = _ragged(lambda b, t: (_tokens(30, b, t),))
    yield Model("stanza models.common.char_model.CharacterLanguageModel", characters, sizes)
    sizes = _sized(lambda b, t: (_tokens(29, b, t, 5),), (2, 4), (3, 6))
    yield Model("supar modules.lstm.CharLSTM", CharLSTM(30, 16, 16, 8), sizes)


def script_models() -> Iterator[Model]:
    """Yield models for archives."""
    from encodec.modules.seanet import SEANetDecoder
    from openunmix.model import OpenUnmix
    from stanza.models.langid.model import LangIDBiLSTM
    from torchaudio import models as audio
    from torchaudio.models import rnnt
    from torchvision import models as vision

    randn, full = torch.randn, torch.full
    lengths = _ragged(lambda b, t: (randn(b, t, 16),))
    yield Model("torchaudio models.Conformer", audio.Conformer(16, 4, 32, 2, 3), lengths)
    emformer = audio.Emformer(16, 2, 32, 2, 4, right_context_length=1)
    sizes = _sized(lambda b, t: (randn(b, t + 1, 16), full((b,), t)), (2, 8), (3, 12))
    yield Model("torchaudio models.Emformer", emformer, sizes)
    waves = _sized(lambda b, t: (randn(b, 1, t),), (2, 800), (3, 1200))
    tasnet = audio.ConvTasNet(2, 8, 16, 3, 8, 16, 2, 2)
    yield Model("torchaudio models.ConvTasNet", tasnet, waves)
    yield Model("torchaudio models.Wav2Letter", audio.Wav2Letter(10), waves)
    wav2vec = audio.wav2vec2_model(
        *("layer_norm", [(8, 10, 5), (8, 3, 2)], True, 16, 0.0, 5, 2, 2, 4, 0.0, 32, 0.0, 0.0, False, 0.0, 9)
    )
    yield Model("torchaudio models.Wav2Vec2Model", wav2vec, [(wave[:, 0],) for (wave,) in waves])
    predictor = rnnt._Predictor(30, 24, 16, 2, 20, True, 1e-3)
    sizes = _sized(lambda b, t: (_tokens(30, b, t), full((b,), t, dtype=torch.int32)), (2, 5), (3, 7))
    yield Model("torchaudio models.rnnt._Predictor", predictor, sizes)
    make = lambda b, t: (randn(b, t, 8), full((b,), t), randn(b, 4, 8), full((b,), 4))  # noqa: E731
    sizes = _sized(make, (2, 6), (3, 9))
    yield Model("torchaudio models.rnnt._Joiner", rnnt._Joiner(8, 10), sizes)
    sizes = _sized(lambda b, t: (randn(t, b, 8), None), (2, 6), (3, 9))
    yield Model("torchaudio models.rnnt._CustomLSTM", rnnt._CustomLSTM(8, 12, layer_norm=True), sizes)
    reduced = _sized(lambda b, t: (randn(b, t, 8), full((b,), t)), (2, 8), (3, 12))
    yield Model("torchaudio models.rnnt._TimeReduction", rnnt._TimeReduction(4), reduced)
    squim = audio.squim_objective_base()
    yield Model("torchaudio models.SquimObjective", squim, [(wave[:, 0],) for (wave,) in waves])
    settings = {"channels": 1, "dimension": 16, "n_filters": 4, "ratios": [4, 2], "lstm": 2}
    sizes = _sized(lambda b, t: (randn(b, 16, t),), (2, 8), (3, 12))
    yield Model("encodec modules.seanet.SEANetDecoder", SEANetDecoder(**settings), sizes)
    unmix = OpenUnmix(nb_bins=65, nb_channels=2, hidden_size=32, nb_layers=3)
    sizes = _sized(lambda b, t: (randn(b, 2, 65, t).abs(),), (2, 9), (3, 14))
    yield Model("openunmix model.OpenUnmix", unmix, sizes)
    letters, names = {chr(97 + i): i + 1 for i in range(20)}, {str(i): i for i in range(5)}
    languages = LangIDBiLSTM({"<PAD>": 0, **letters}, names, 2, 16, 16)
    sizes = _sized(lambda b, t: (_tokens(20, b, t),), (2, 7), (3, 9))
    yield Model("stanza models.langid.model.LangIDBiLSTM", languages, sizes)
    images = _sized(lambda b, t: (randn(b, 3, 64, t),), (2, 64), (3, 96))
    names = (
        "alexnet convnext_tiny densenet121 mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18"
    )
    for name in f"{names} squeezenet1_1 vgg11".split():
        yield Model(f"torchvision models.{name}", getattr(vision, name)(num_classes=10), images)
    segments = vision.segmentation
    for make in (segments.lraspp_mobilenet_v3_large, segments.fcn_resnet50, segments.deeplabv3_resnet50):
        module = make(num_classes=4, weights_backbone=None)
        yield Model(f"torchvision models.segmentation.{make.__name__}", module, images)


def as_script(model: Model) -> Model | str:
    """Return the model in its TorchScript archive, with the sizes that it takes, or why torch makes none."""
    module, reason = model.module.eval(), ""
    ways = {
        "script": lambda: torch.jit.script(copy.deepcopy(module)),
        "trace": lambda: torch.jit.trace(module, model.sizes[0], check_trace=False, strict=False),
    }
    for way, make in ways.items():
        raw = io.BytesIO()
        try:
            torch.jit.save(make(), raw)
        except (RuntimeError, TypeError, AttributeError, LookupError, FrontendError) as error:
            reason = " ".join(str(error).split())[:150]
            continue
        script = torch.jit.load(io.BytesIO(raw.getvalue())).eval()
        # A trace may hold the sizes of its example.
        return Model(f"{model.name} {way}", script, [args for args in model.sizes if _runs(script, args)])
    return f"torch makes no archive of {model.name}: {reason}"


@torch.no_grad()
def _runs(script: Any, args: tuple[Any, ...]) -> bool:
    try:
        script(*args)
    except RuntimeError:
        return False
    return True


def row(model: Model, *, timed: bool) -> list[str]:
    """Return the columns of a model: class, free axes of each input, difference, speed (if timed), note."""
    package, kind, *way = model.name.split(" ")
    name = " ".join([package, importlib.metadata.version(package), f"`{kind}`", *way])
    model.module.eval()
    try:
        program = jaxlstm.from_module(model.module, model.sizes[0])
        run = jax.jit(program.__call__)
        run(program.params, *_numpy(model.sizes[0]))
    except ProgramError as error:
        return [name, "", "", *[""] * timed, f"refused: {_first_sentence(error)}"]
    worst, note = 0.0, ""
    for args in model.sizes:
        with torch.no_grad():
            theirs = model.module(*args)
        try:
            worst = max(worst, _difference(run(program.params, *_numpy(args)), theirs))
        except ProgramError as error:
            note = _first_sentence(error)
    note = f"WRONG: {worst:.1e}" if worst > TOLERANCE else note
    shapes = [declared.type.shape for declared in program.inputs if declared.type]
    free = ", ".join(
        f"{sum(not isinstance(size, int) for size in shape)} of {len(shape)}" for shape in shapes
    )
    speed = [_speed(model, run, program.params)] if timed else []
    return [name, free, f"{worst:.0e}", *speed, note]


def _first_sentence(error: ProgramError) -> str:
    return str(error).splitlines()[0].partition(". ")[0][:150].replace("|", "\\|")


def _numpy(tree: Any) -> Any:
    return _pytree.tree_map(lambda x: x.numpy() if isinstance(x, Tensor) else x, tree)


def _difference(ours: Any, theirs: Any) -> float:
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(_numpy(theirs)), strict=True))
    if any(np.shape(a) != np.shape(b) for a, b in pairs):
        return float("inf")
    largest = max(float(np.max(np.abs(b), initial=0)) for _, b in pairs)
    return max(float(np.max(np.abs(np.asarray(a) - b), initial=0)) for a, b in pairs) / (largest or 1.0)


def _speed(model: Model, run: Any, params: Any) -> str:
    """Return how many times longer eager torch takes than the jitted program, measured by turns."""
    args = model.sizes[0]
    arrays = _numpy(args)
    ratios = []
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            theirs = _seconds(lambda: model.module(*args))
            ratios.append(theirs / _seconds(lambda: jax.block_until_ready(run(params, *arrays))))
    return f"{statistics.median(ratios[1:]):.1f}"


def _seconds(function: Callable[[], Any], calls: int = 5) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="the page whose table is replaced")
    parser.add_argument("--torchscript", action="store_true", help="run the models' TorchScript archives")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    heads = ["Model", "Free axes of each input", "Difference", *["Speed"] * (not options.torchscript), "Note"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    groups = (audio_models, text_models, *([script_models] if options.torchscript else []))
    for model in (model for models in groups for model in models()):
        chosen = as_script(model) if options.torchscript else model
        columns = [] if isinstance(chosen, str) else row(chosen, timed=not options.torchscript)
        text = f"| {' | '.join(columns)} |" if columns else str(chosen)
        print(text, flush=True)
        lines += [text] if columns else []
    marker = MARKER.format(" --torchscript" * options.torchscript)
    start, _, rest = options.page.read_text().partition(marker)
    _, heading, rest = rest.partition("\n## ")
    options.page.write_text(start + marker + "\n" + "\n".join(lines) + "\n" + heading + rest)
    return int("WRONG" in "".join(lines))


if __name__ == "__main__":
    sys.exit(main())
