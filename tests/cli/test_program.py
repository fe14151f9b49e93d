"""``inspect``, ``run`` and ``export`` on a ``.pt2`` program: the demo tagger."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jaxlstm import from_module, load_program
from jaxlstm.inference import runner
from jaxlstm.inference.engine import WorkCounter
from jaxlstm.programs.operators import registry
from jaxlstm.programs.program import Program
from testing.command import CONFIG, Result, jaxlstm_command
from testing.exported import AUTO, save, with_example
from testing.inference import reference, weights
from testing.modules import module_of

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt2"
LENGTHS = (5, 9, 5, 1, 5, 9)


@pytest.fixture(scope="module")
def program() -> Program:
    return load_program(DEMO)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, np.ndarray]:
    """Sequences of characters, also in ``x.npz``."""
    rng = np.random.default_rng(0)
    texts = {f"s{k}": rng.integers(0, 29, length) for k, length in enumerate(LENGTHS)}
    np.savez(tmp_path / "x.npz", **texts)  # type: ignore[arg-type]
    return texts


def run(folder: Path, *options: object, checkpoint: Path = DEMO, source: str = "x.npz") -> Result:
    output = folder / "y.npz"
    return jaxlstm_command("run", checkpoint, "--input", folder / source, "-o", output, *options)


def test_inspect() -> None:
    done = jaxlstm_command("inspect", DEMO, status=0)
    report = json.loads(jaxlstm_command("inspect", DEMO, "--json").out)
    batch, length = report["program"]["free_axes"]
    for line in (
        f"input characters: int64 ({batch}, {length})",
        f"free axis {length}: any size",
        f"result 1: float32 ({batch}, {length}, 7)",
        "16 -> 24, num_layers=2, batch_first=True, bidirectional=True",
    ):
        assert line in done.out
    assert "not recorded" not in done.out
    assert report["program"]["operators"]["aten.lstm.input"] == 1
    assert report["lstms"][0]["not_recorded"] == []
    assert "Linear     48 -> 7" in jaxlstm_command("inspect", DEMO, "--all", status=0).out


def test_inspect_names_the_operators_that_are_not_supported(tmp_path: Path) -> None:
    save(tmp_path / "noise.pt2", module_of(lambda _, x: x + torch.randn_like(x)), torch.randn(5, 2, 3))
    done = jaxlstm_command("inspect", tmp_path / "noise.pt2", status=1)
    assert "CANNOT RUN: the program calls 1 unsupported operator" in done.out
    assert "aten.randn_like.default" in done.out


def test_operators_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file registers an operator that the program needs; a broken one is a usage error."""
    monkeypatch.setattr(registry, "_OPERATORS", dict(registry._OPERATORS))
    path, operators = tmp_path / "inverse.pt2", tmp_path / "mine.py"
    save(path, module_of(lambda _, x: torch.special.erfcx(x)), torch.randn(5, 2))
    operators.write_text(
        "import jax, jaxlstm\n"
        "@jaxlstm.programs.register_operator('aten.special_erfcx.default')\n"
        "def erfcx(self):\n"
        "    return jax.numpy.exp(self**2) * jax.scipy.special.erfc(self)\n"
    )
    assert "--operators FILE.py" in jaxlstm_command("inspect", path, status=1).out
    assert jaxlstm_command("inspect", path, "--operators", operators).status == 0
    empty = tmp_path / "empty.py"
    empty.touch()
    assert jaxlstm_command("inspect", path, "--operators", operators, "--operators", empty).status == 0
    operators.write_text("import jaxlstm\nraise RuntimeError('no')\n")
    done = jaxlstm_command("inspect", path, "--operators", operators, status=2)
    assert f"--operators: RuntimeError: no ({operators}, line 2)" in done.err


def test_check(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = jaxlstm_command("check", DEMO, "--report", page, status=0)
    assert done.out.rstrip().splitlines()[-1].startswith(f"{DEMO}: the program HOLDS")
    assert "float64 gradients against torch" in page.read_text()


@pytest.mark.parametrize("free", [(), (0,)])
def test_check_names_what_it_could_not_try(free: tuple[int, ...], tmp_path: Path) -> None:
    """One tensor for h and c: torch merges them, so that the program ignores one argument."""
    state, path = torch.ones(4, 3), tmp_path / "merged.pt2"
    axes = dict.fromkeys(free, AUTO)
    gate = module_of(lambda _, x, h, c: torch.tanh(x) * h + c)
    save(path, gate, torch.randn(4, 3), state, state, dynamic_shapes=(axes, axes, axes))
    done = jaxlstm_command("check", path)
    warning = "input h has no effect: no node uses it"
    assert f"note: {warning}" in done.out
    assert done.status == 0
    assert done.out.rstrip().endswith(", no other sizes tried)") == (not free)
    assert f"warning: {warning}" in jaxlstm_command("inspect", path).out


def test_run(tmp_path: Path, texts: dict[str, np.ndarray], program: Program) -> None:
    assert run(tmp_path).status == 0
    written = np.load(tmp_path / "y.npz")
    assert set(written.files) == {f"{name}.{index}" for name in texts for index in range(2)}
    for name, text in texts.items():
        for index, expected in enumerate(program(program.params, text[None])):
            np.testing.assert_allclose(written[f"{name}.{index}"], expected[0], rtol=0, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "y.npz"}


@pytest.mark.parametrize("kind", ["checkpoint", "program"])
def test_batches_of_300(kind: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """700 sequences of 40 lengths run in few calls and few compiled shapes."""
    if kind == "program":
        lstm = torch.nn.LSTM(5, 8, 2, batch_first=True)
        lstm.load_state_dict({name: torch.tensor(np.array(leaf)) for name, leaf in weights(CONFIG).items()})
        module = module_of(lambda m, x: m.lstm(x)[0], lstm=lstm)
        checkpoint, free = tmp_path / "m.pt2", ({0: AUTO, 1: AUTO},)
        from_module(module, (torch.randn(2, 6, 5),), dynamic_shapes=free).save(checkpoint)
    x = np.random.default_rng(0).standard_normal((40, 7, 5)).astype(np.float32)
    arrays = {str(k): x[: k % 40 + 1, k % 7] for k in range(700)}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    counters: list[WorkCounter] = []
    init = WorkCounter.__init__
    monkeypatch.setattr(WorkCounter, "__init__", lambda self: init(self) or counters.append(self))
    monkeypatch.setattr(runner, "is_available", lambda *_: False)  # the native kernel compiles no shapes
    assert run(tmp_path, "--batch-size", 300, checkpoint=checkpoint).status == 0
    written = np.load(tmp_path / "y.npz")
    expected, _ = reference(weights(CONFIG), x, config=CONFIG)
    for k in range(700):
        np.testing.assert_allclose(written[str(k)], expected[: k % 40 + 1, k % 7], rtol=0, atol=1e-6)
    (stats,) = [counter.stats() for counter in counters]
    expected = 5 if kind == "program" else 3  # lengths of 1, 16, 24, 32 and 48, or chunks of 16
    assert (stats.compilations, stats.calls) == (expected, expected)


def test_errors_are_one_line(tmp_path: Path, texts: dict[str, np.ndarray]) -> None:
    del texts
    x, index = torch.randn(3, 4), torch.zeros(4, dtype=torch.int64)
    save(tmp_path / "two.pt2", module_of(lambda _, a, b: a + b), x, x, dynamic_shapes=({0: AUTO}, {0: AUTO}))
    save(tmp_path / "sum.pt2", module_of(lambda _, a: a.sum()), x, dynamic_shapes=({0: AUTO},))
    save(tmp_path / "fixed.pt2", torch.nn.ReLU(), x)
    save(tmp_path / "row.pt2", module_of(lambda _, i: torch.ones(1, 3)[i]), index)
    with_example(tmp_path / "row.pt2", b"")
    np.savez(tmp_path / "long.npz", a=np.zeros(5, np.float32))
    np.savez(tmp_path / "wide.npz", a=np.zeros((3, 2), np.int64))
    np.savez(tmp_path / "real.npz", a=np.zeros(3))
    (tmp_path / "cut.pt2").write_bytes(DEMO.read_bytes()[:90_000])
    cases: list[tuple[Result, str]] = [
        (run(tmp_path, checkpoint=tmp_path / "two.pt2"), "no column 'b' for an input of the model"),
        (run(tmp_path, checkpoint=tmp_path / "sum.pt2"), "without the batch axis"),
        (run(tmp_path, source="wide.npz"), "a has shape (3, 2), expected"),
        (
            run(tmp_path, checkpoint=tmp_path / "fixed.pt2", source="long.npz"),
            "a has shape (5,), expected (4,), not empty. To accept other sizes, export the axis as dynamic: "
            "dynamic_shapes={'input': {1: torch.export.Dim.AUTO}}",
        ),
        (run(tmp_path, source="real.npz"), "a is float64 and the model takes int64; pass --cast"),
        (run(tmp_path, "--states"), "states cannot be used with a .pt2 program"),
        (jaxlstm_command("inspect", tmp_path / "cut.pt2"), "truncated"),
        (jaxlstm_command("export", DEMO, "-o", DEMO), "would replace the input"),
        (jaxlstm_command("export", DEMO, "-o", tmp_path / "m", "--dropout", "0.5"), "--dropout cannot"),
        (jaxlstm_command("check", DEMO, "--matrix"), "--matrix cannot be used with a .pt2 program"),
        (jaxlstm_command("check", tmp_path / "cut.pt2"), "truncated"),
        (jaxlstm_command("check", tmp_path / "row.pt2"), "torch refuses random inputs (IndexError: index 1"),
        (jaxlstm_command("export", tmp_path / "gone.pt2", "-o", tmp_path / "m"), "no such file"),
    ]
    for result, message in cases:
        assert result.status == 2, message
        assert message in result.err
        assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "y.npz").exists()
