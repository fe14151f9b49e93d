"""Published TorchScript archives: TorchScript's values from the text of their code."""

import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch.package.package_importer import PackageImporter

import jaxlstm
from testing.wheels import fetch_pinned

pytestmark = [
    pytest.mark.network,
    pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated", "ignore:from_module"),
]


@pytest.mark.slow
def test_a_stream_of_silero_at_both_rates() -> None:
    """Windows of 32 ms with the state of the archive; and the inner models in JAX, with state as argument."""
    path = fetch_pinned("silero-vad", "silero_vad/data/silero_vad.jit")
    theirs: Any = torch.jit.load(path).eval()
    ours: Any = jaxlstm.load_torchscript(path).eval()
    generator = torch.Generator().manual_seed(0)
    for rate, size, inner in ((16000, 512, "_model"), (8000, 256, "_model_8k")):
        theirs.reset_states()
        ours.reset_states()
        state, context = jax.numpy.zeros((2, 2, 128)), np.zeros((2, size // 8), np.float32)
        example = torch.randn(2, size + size // 8, generator=generator)
        program = jaxlstm.from_module(getattr(theirs, inner), (example, torch.zeros(2, 2, 128)))
        step = jax.jit(program)
        for _ in range(100):
            window = 0.1 * torch.randn(2, size, generator=generator)
            with torch.no_grad():
                expected = theirs(window, rate)
                np.testing.assert_array_equal(ours(window, rate), expected)
            x = np.concatenate([context, window.numpy()], 1)
            actual, state = step(program.params, x, state)
            context = x[:, -size // 8 :]
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="Input audio chunk is too short"):
        ours(torch.zeros(1, 100), 16000)


def require_equal_results(ours: Any, theirs: Any, *examples: tuple[torch.Tensor, ...], atol: float) -> None:
    """Require TorchScript's bits in torch, and its values in JAX, of a program of the first example."""
    program = jaxlstm.from_module(ours, examples[0])
    for args in examples:
        with torch.no_grad():
            expected, in_torch = theirs(*args), ours(*args)
        in_jax = jax.jit(program)(program.params, *(arg.numpy() for arg in args))
        for actual, same, value in zip(*map(jax.tree.leaves, (in_jax, in_torch, expected)), strict=True):
            assert torch.equal(same, value)
            assert actual.dtype == value.numpy().dtype
            np.testing.assert_allclose(actual, value, rtol=0, atol=atol)


ARCHIVES = {
    "silero-vad@5.1 silero_vad/data/silero_vad.jit _model": ((3, 576), (2, 3, 128)),
    "deepbet data/models/bbox_model.pt": ((2, 1, 32, 32, 32),),
    "deepbet data/models/model.pt": ((2, 1, 32, 32, 32),),
}
"""Package, file and module -> sizes of the arguments."""


@pytest.mark.quick("silero-vad@5.1 silero_vad/data/silero_vad.jit _model")
@pytest.mark.parametrize("archive", ARCHIVES)
def test_published_archives(archive: str) -> None:
    """Scripts of other versions, and U-Nets for volumes."""
    package, member, module = (*archive.split(), "")[:3]
    path = fetch_pinned(package, member)
    theirs = dict(torch.jit.load(path, map_location="cpu").eval().named_modules())[module]
    ours = jaxlstm.load_torchscript(path).eval().get_submodule(module)
    torch.manual_seed(0)
    require_equal_results(ours, theirs, tuple(torch.rand(sizes) for sizes in ARCHIVES[archive]), atol=3e-4)


@pytest.mark.parametrize("language", ["en", "de"])
def test_an_archive_of_torch_1_4(language: str, tmp_path: Path) -> None:
    """LSTMs in float16, traced on a GPU. The reference is the archive with another device."""
    folder = f"nnsplit/data/{language}"
    path, on_cpu = fetch_pinned("nnsplit", f"{folder}/ts_cuda.pt"), tmp_path / "cpu.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(on_cpu, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'device("cuda:0")', b'device("cpu")'))
    ours, theirs = jaxlstm.load_torchscript(path).eval(), torch.jit.load(on_cpu, map_location="cpu")
    torch.manual_seed(0)
    texts = [(torch.randint(0, 127, sizes),) for sizes in ((2, 20), (3, 31))]
    require_equal_results(ours, theirs, *texts, atol=0.02)  # of logits up to 20 in float16
    with pytest.raises(jaxlstm.CheckpointError, match=r"quantized models are not supported.*\.quantized"):
        jaxlstm.load_torchscript(fetch_pinned("nnsplit", f"{folder}/ts_cpu.pt"))


@pytest.mark.slow
def test_scripts_in_a_torch_package() -> None:
    """Silero's stress: n-grams of words in bytes, and a BERT with words of tensors."""
    path = fetch_pinned("silero-stress", "silero_stress/data/accentor.pt")
    with torch.enable_grad():  # The code of the package turns gradients off.
        package = PackageImporter(path).load_pickle("accentor_models", "accentor")
    accentor, solver = package.accentor.model.eval(), package.homosolver.model.eval()
    own_accentor, own_solver = map(jaxlstm.load_torchscript, (accentor, solver))
    torch.manual_seed(0)
    words, starts = (
        ["\u043f\u0440\u0438\u0432\u0435\u0442", "\u0451\u043b\u043a\u0430", "a"],
        torch.tensor([1, 2]),
    )
    args = torch.randint(1, 100, (2, 9)), starts, starts + 5
    with torch.no_grad():
        for ours, theirs in ((own_accentor(words), accentor(words)), ([own_solver(*args)], [solver(*args)])):
            assert all(map(torch.equal, ours, theirs))
    bert, longer = own_solver.get_submodule("bert"), torch.randint(1, 100, (3, 14))
    require_equal_results(bert, solver.bert, args[:1], (longer,), atol=2e-5)
