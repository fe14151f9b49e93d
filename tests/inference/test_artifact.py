"""The exported file, opened where nothing of ours is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlstm import LSTMConfig, lstm, save
from jaxlstm.inference import export, load_exported
from tests.support.inference import normal, weights

pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")

CONFIGS = {
    "stack": LSTMConfig(7, 16, num_layers=2, batch_first=True),
    "both": LSTMConfig(7, 12, bidirectional=True, proj_size=5, bias=False),
}

STRANGER = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jaxlstm", "jaxlstm_converters", "flax", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
import jax.export, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
given = np.load(sys.argv[2])
arguments = [given["x"], given["h"], given["c"]]
if len(sys.argv) == 5:
    import safetensors.numpy
    arguments.insert(0, safetensors.numpy.load_file(sys.argv[4]))
y, h, c = exported.call(*arguments)
np.savez(sys.argv[3], y=y, h=h, c=c)
"""


@pytest.mark.parametrize(("name", "where"), [("stack", "inside"), ("both", "beside")])
def test_a_stranger_runs_it(name: str, where: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    params = weights(config)
    path = tmp_path / "model.stablehlo"
    export(path, params, config, weights=where)
    h_shape, c_shape = config.state_shapes(3)
    given = {"x": normal(3, 9, 7), "h": normal(*h_shape, seed=1), "c": normal(*c_shape, seed=2)}
    if not config.batch_first:
        given["x"] = given["x"].swapaxes(0, 1)
    np.savez(tmp_path / "in.npz", **given)  # type: ignore[arg-type]
    beside = [tmp_path / "model.safetensors"] if where == "beside" else []
    subprocess.run(
        [sys.executable, "-c", STRANGER, path, tmp_path / "in.npz", tmp_path / "out.npz", *beside],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=True,
    )
    found = np.load(tmp_path / "out.npz")
    wanted, state = lstm(
        params, given["x"], (given["h"], given["c"]), config=config, backend="scan"
    )
    for a, b in ((found["y"], wanted), (found["h"], state.h), (found["c"], state.c)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    loaded = load_exported(path)
    outputs, again = loaded(given["x"], (given["h"], given["c"]))
    np.testing.assert_array_equal(outputs, found["y"])
    np.testing.assert_array_equal(again.c, found["c"])


def test_any_batch_and_time_and_nothing_unstable(tmp_path: Path) -> None:
    config = CONFIGS["stack"]
    params = weights(config)
    export(tmp_path / "m.stablehlo", params, config)
    loaded = load_exported(tmp_path / "m.stablehlo")
    assert loaded.exported.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @([\w.]+)", loaded.exported.mlir_module()))
    assert calls <= {"shape_assertion"}  # the only one, and one that jax.export promises to keep
    for batch, time in ((1, 1), (5, 17)):
        x = normal(batch, time, 7)
        outputs, state = loaded(x)
        wanted, final = lstm(params, x, config=config, backend="scan")
        np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(state.h, final.h, rtol=0, atol=1e-6)


def test_files_that_differ_behind_a_dot_have_weights_of_their_own(tmp_path: Path) -> None:
    config = CONFIGS["stack"]
    x = normal(1, 3, 7)
    wanted = []
    for k in (1, 2):
        export(tmp_path / f"v.{k}", weights(config, seed=k), config, weights="beside")
        wanted.append(lstm(weights(config, seed=k), x, config=config, backend="scan")[0])
    for k in (1, 2):
        outputs, _ = load_exported(tmp_path / f"v.{k}")(x)
        np.testing.assert_allclose(outputs, wanted[k - 1], rtol=0, atol=1e-6)


def test_errors(tmp_path: Path) -> None:
    config = CONFIGS["stack"]
    params = weights(config)
    path = tmp_path / "m.stablehlo"
    with pytest.raises(ValueError, match="platforms must be some of"):
        export(path, params, config, platforms=("abacus",))
    with pytest.raises(ValueError, match="weights must be one of"):
        export(path, params, config, weights="outside")
    with pytest.raises(ValueError, match=r"must not end in \.safetensors"):
        export(tmp_path / "m.safetensors", params, config)
    assert list(tmp_path.iterdir()) == []
    export(path, params, config, weights="beside")
    loaded = load_exported(path)
    with pytest.raises(TypeError, match="inputs must be a float32 array, got float64"):
        loaded(np.zeros((1, 2, 7)))
    with pytest.raises(ValueError, match=r"inputs must have shape \(b, t, 7\)"):
        loaded(normal(1, 2, 8))
    h, c = (normal(*shape) for shape in config.state_shapes(2))
    x = normal(2, 3, 7)
    with pytest.raises(ValueError, match=r"at least one sequence and one step, got \(2, 0, 7\)"):
        loaded(x[:, :0])
    with pytest.raises(TypeError, match=r"the state must be a pair \(h_0, c_0\)"):
        loaded(x, (h,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"c_0 must have shape \(2, 2, 16\)"):
        loaded(x, (h, c[:, :1]))
    with pytest.raises(
        TypeError, match="h_0 must have the dtype of the inputs, float32; got float16"
    ):
        loaded(x, (h.astype(np.float16), c))
    other = LSTMConfig(7, 17, num_layers=2, batch_first=True)
    save(tmp_path / "m.safetensors", weights(other), other)
    with pytest.raises(ValueError, match=r"m\.safetensors does not hold the weights of"):
        load_exported(path)
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(OSError, match=r"m\.safetensors"):
        load_exported(path)
    path.write_bytes(b"not an artifact")
    with pytest.raises(ValueError, match=r"is not a jax\.export artifact"):
        load_exported(path)
