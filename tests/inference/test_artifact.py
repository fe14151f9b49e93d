"""Exported artifacts: in a process without jaxlstm, loaded again, and programs at other sizes."""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm import LSTMConfig, Program, from_module, load, lstm, save
from jaxlstm.inference import export, load_exported
from jaxlstm.inference.artifact import export_program, weights_beside
from jaxlstm.programs.errors import ProgramError
from testing.exported import AUTO
from testing.gradients import assert_close
from testing.inference import normal, weights
from testing.modules import module_of
from testing.processes import run_python

pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")

CONFIGS = {
    "stack": LSTMConfig(7, 16, num_layers=2, batch_first=True),
    "both": LSTMConfig(7, 12, bidirectional=True, proj_size=5, bias=False),
}
STATE: dict[str, Any] = {
    name: tuple(normal(*shape, seed=1) for shape in config.state_shapes(3))
    for name, config in CONFIGS.items()
}
INPUTS = {"stack": normal(3, 9, 7), "both": normal(9, 3, 7)}

# Arguments: a folder with stack.stablehlo and both.stablehlo, both.safetensors, and in.npz.
STRANGER = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jaxlstm", "jaxlstm_converters", "flax", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
import jax.export, numpy as np, safetensors.numpy
folder, results = sys.argv[1], {}
inputs = np.load(f"{folder}/in.npz")
for name in ("stack", "both"):
    exported = jax.export.deserialize(bytearray(open(f"{folder}/{name}.stablehlo", "rb").read()))
    arguments = [inputs[f"{name}.{leaf}"] for leaf in "xhc"]
    if name == "both":
        arguments.insert(0, safetensors.numpy.load_file(f"{folder}/both.safetensors"))
    for leaf, array in zip("yhc", exported.call(*arguments)):
        results[f"{name}.{leaf}"] = array
np.savez(f"{folder}/out.npz", **results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both configs exported: "stack" with its weights inside, "both" with them beside."""
    path = tmp_path_factory.mktemp("artifacts")
    export(path / "stack.stablehlo", weights(CONFIGS["stack"]), CONFIGS["stack"])
    export(path / "both.stablehlo", weights(CONFIGS["both"]), CONFIGS["both"], weights="beside")
    return path


def test_a_process_without_jaxlstm(folder: Path) -> None:
    arrays = {
        f"{name}.{leaf}": array
        for name in CONFIGS
        for leaf, array in zip("xhc", (INPUTS[name], *STATE[name]), strict=True)
    }
    np.savez(folder / "in.npz", **arrays)  # type: ignore[arg-type]
    run_python("-c", STRANGER, folder, JAX_PLATFORMS="cpu")
    results = np.load(folder / "out.npz")
    for name, config in CONFIGS.items():
        x, params = INPUTS[name], weights(config)
        outputs, state = lstm(params, x, STATE[name], config=config, backend="scan")
        for leaf, expected in zip("yhc", (outputs, *state), strict=True):
            np.testing.assert_allclose(results[f"{name}.{leaf}"], expected, rtol=0, atol=1e-6)
        outputs, state = load_exported(folder / f"{name}.stablehlo")(x, STATE[name])
        for leaf, actual in zip("yhc", (outputs, *state), strict=True):
            np.testing.assert_array_equal(actual, results[f"{name}.{leaf}"])


def test_batch_and_time_are_symbolic(folder: Path) -> None:
    config = CONFIGS["stack"]
    loaded = load_exported(folder / "stack.stablehlo")
    assert loaded.exported.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @([\w.]+)", loaded.exported.mlir_module()))
    assert calls <= {"shape_assertion"}  # jax.export guarantees that this call remains supported
    for batch, time in ((1, 1), (5, 17)):
        x = normal(batch, time, 7)
        outputs, state = loaded(x)
        expected, final = lstm(weights(config), x, config=config, backend="scan")
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(state.h, final.h, rtol=0, atol=1e-6)


def test_separate_weights_are_a_checkpoint(folder: Path) -> None:
    params, config = load(folder / "both.safetensors")
    assert config == CONFIGS["both"]
    for name, leaf in weights(config).items():
        np.testing.assert_array_equal(params[name], leaf)


def test_names_of_separate_weights() -> None:
    assert weights_beside(Path("a/m.stablehlo")) == Path("a/m.safetensors")
    assert weights_beside(Path("v.1")) == Path("v.1.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.stablehlo", {"platforms": ("abacus",)}, "platforms must be some of"),
        ("m.stablehlo", {"weights": "outside"}, "weights must be one of"),
        ("m.safetensors", {}, r"must not end in \.safetensors"),
    ],
)
def test_errors_of_export(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(tmp_path / name, weights(CONFIGS["stack"]), CONFIGS["stack"], **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["m.stablehlo", "m.safetensors"])
def test_other_files_need_overwrite(part: str, folder: Path, tmp_path: Path) -> None:
    config = CONFIGS["both"]
    path, foreign = tmp_path / "m.stablehlo", tmp_path / part

    def write(seed: int, **options: Any) -> None:
        params = weights(config, seed=seed)
        export(path, params, config, platforms=("cpu",), weights="beside", **options)

    foreign.write_text("mine")
    with pytest.raises(FileExistsError, match=f"{part} exists and was not written by jaxlstm"):
        write(1)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(part, "mine")]
    write(1, overwrite=True)
    write(2)  # both files are from jaxlstm now
    actual = load_exported(path).params
    assert actual is not None
    np.testing.assert_array_equal(actual["weight_hh_l0"], weights(config, seed=2)["weight_hh_l0"])
    save(tmp_path / "m.safetensors", weights(CONFIGS["stack"]), CONFIGS["stack"], overwrite=True)
    with pytest.raises(FileExistsError, match="exists and was not written by jaxlstm"):
        write(3)  # The file beside the artifact is now another model's.


def test_an_artifact_of_another_program_needs_overwrite(tmp_path: Path) -> None:
    path, config = tmp_path / "m.stablehlo", CONFIGS["stack"]
    shapes = [jax.ShapeDtypeStruct((1, 1, 1), np.float32)] * 3
    path.write_bytes(jax.export.export(jax.jit(lambda x, h, c: (x, h, c)))(*shapes).serialize())
    load_exported(path)
    with pytest.raises(FileExistsError, match="was not written by jaxlstm"):
        export(path, weights(config), config)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileExistsError, match="is a directory; choose another path"):
        export(path, weights(config), config, overwrite=True)


def test_errors_of_a_call(folder: Path) -> None:
    loaded: Any = load_exported(folder / "stack.stablehlo")
    h, c = (normal(*shape) for shape in CONFIGS["stack"].state_shapes(2))
    x = normal(2, 3, 7)
    for arguments, kind, message in (
        ((np.zeros((1, 2, 7)),), TypeError, "inputs must be a float32 array, got float64"),
        ((normal(1, 2, 8),), ValueError, r"inputs must have shape \(b, t, 7\)"),
        ((x[:, :0],), ValueError, r"at least one sequence and one step, got \(2, 0, 7\)"),
        ((x, (h,)), TypeError, r"the state must be a pair \(h_0, c_0\)"),
        ((x, (h, c[:, :1])), ValueError, r"c_0 must have shape \(2, 2, 16\)"),
        ((x, (h.astype(np.float16), c)), TypeError, "must have the dtype of the inputs, float32; got"),
    ):
        with pytest.raises(kind, match=message):
            loaded(*arguments)


def test_errors_of_load_exported(folder: Path, tmp_path: Path) -> None:
    path, beside = tmp_path / "m.stablehlo", tmp_path / "m.safetensors"
    shutil.copy(folder / "both.stablehlo", path)
    with pytest.raises(OSError, match=r"m\.safetensors"):
        load_exported(path)
    other = LSTMConfig(7, 17)
    save(beside, weights(other), other)
    with pytest.raises(ValueError, match=r"m\.safetensors does not hold the weights of"):
        load_exported(path)
    beside.write_bytes((folder / "both.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"m\.safetensors .*: the last tensor ends at byte 5816"):
        load_exported(path)
    path.write_bytes(b"not an artifact")
    with pytest.raises(ValueError, match=r"is not a jax\.export artifact"):
        load_exported(path)


def slices(_: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Slices of a free axis, whose bounds depend on its size."""
    return x[:, 1:], x[:, :-1], x[1:] * 2, x[:, -1]


def ranges(_: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """torch.arange of a free size, as positional encodings and masks use it."""
    time = x.shape[1]
    places = torch.arange(time)
    return x + places[:, None], torch.arange(2, time + 3, 2), torch.arange(time, dtype=x.dtype), places > 3


SLICES, RANGES, END = module_of(slices), module_of(ranges), module_of(lambda _, x: (x[:, -2:],))
BRANCH = module_of(lambda _, x: x * 2 if x.shape[1] % 2 == 0 else x)
UNEQUAL = module_of(lambda _, x: x * 2 if x.shape[1] % 4 == 0 else x)  # JAX takes != as true
LONGER = module_of(lambda _, x: x * 2 if x.shape[1] > x.shape[0] + 1 else x)


def free_program(module: nn.Module, time: object = AUTO) -> Program:
    return from_module(module, (torch.randn(4, 6, 3),), dynamic_shapes=({0: AUTO, 1: time},))


@pytest.mark.parametrize(
    ("module", "time"),
    [(SLICES, AUTO), (RANGES, AUTO), (END, torch.export.Dim("time", min=3, max=50)), (END, AUTO)],
    ids=["slices", "ranges", "end in a range", "end"],
)
def test_free_axes(module: nn.Module, time: object, tmp_path: Path) -> None:
    program = free_program(module, time)
    path = tmp_path / "slices.stablehlo"
    export_program(path, program, platforms=["cpu"])
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    for batch, time in ((4, 6), (2, 9), (7, 3)):
        x = torch.randn(batch, time, 3)
        assert_close(exported.call(x.numpy()), module(x), 0, 0)


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        (BRANCH, "guard", r"does not hold for all sizes of the free axes.*% 2\) == 0"),
        (UNEQUAL, "guard", r"does not hold for all sizes of the free axes.*% 4\) != 0"),
        (LONGER, "guard", r"does not hold for all sizes of the free axes.*x.shape\[1\] > 1 \+"),
    ],
    ids=["remainder", "other remainder", "inequality"],
)
def test_undecided_for_free_axes(module: nn.Module, code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=message) as caught:
        export_program(tmp_path / "a.stablehlo", free_program(module), platforms=["cpu"])
    assert caught.value.code == code
