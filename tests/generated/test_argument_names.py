"""Written source of random submodules: an argument with a name of the user's is that argument.

Arguments and results have the order and structure of the user's ``forward`` where the export recorded them.
"""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.proof import load_written
from testing.seeds import seeds

NAMES = ("query", "memory", "gate", "h", "context", "bias")
UNARY = (
    "{}.tanh()",
    "torch.sigmoid({})",
    "{}[:, :1].expand(-1, 4)",
    "{}[:, 1:3].sum(1, keepdim=True).expand(3, 4)",
    "self.inner({})",
    "{}",
)
BINARY = (
    "{} + {}",
    "{} * {}",
    "{} - {}",
    "torch.maximum({}, {})",
    "{}.minimum({})",
    "torch.where({} > 0, {}, 0.5)",
)


class Code:
    """A random ``forward`` of several arguments, as text."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(9 + seed)
        self.names = self._rng.permutation(NAMES)[: self._rng.integers(2, 5)].tolist()
        known, self.lines = [*self.names], list[str]()
        for place in range(self._rng.integers(1, 4)):
            target = self._one_of([f"y{place}", f"y{place}", *self.names])
            self.lines.append(f"{target} = {self._expression(known, 2)}")
            known.append(target)
        # Each argument is used.
        self.lines.append(f"total = {' + '.join(f'{n} * {k + 2}' for k, n in enumerate({*known}))}")
        self.lines.append(self._one_of(["return total", "return total.tanh(), (total, total.sum(1))"]))

    def _one_of(self, items: Any) -> Any:
        return items[self._rng.integers(len(items))]

    def _expression(self, known: list[str], depth: int) -> str:
        if not depth or self._rng.random() < 0.2:
            return self._one_of(UNARY).format(self._one_of(known))
        parts = (self._expression(known, depth - 1) for _ in range(2))
        return f"({self._one_of(BINARY).format(*parts)})"

    def module(self, folder: Path) -> type[nn.Module]:
        """Return the class of a module in a file, whose lines an export reads."""
        body = "\n        ".join(self.lines)
        text = f"""import torch
class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
    def forward(self, {self.names[0]}, others):
        {", ".join(self.names[1:])}, = others
        {body}
"""
        (folder / "part.py").write_text(text)
        spec = importlib.util.spec_from_file_location("part", folder / "part.py")
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found.Part


class Whole(nn.Module):
    def __init__(self, part: nn.Module, count: int) -> None:
        super().__init__()
        self.part, self.layers = part, nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x: Tensor) -> Any:
        first, *others = (layer(x) for layer in self.layers)
        return self.part(first, tuple(others))


def saved_by_torch(model: nn.Module, x: Tensor, path: Path) -> Any:
    torch.export.save(torch.export.export(model, (x,)), path)
    return jaxlstm.load_program(path)


def saved_by_jaxlstm(model: nn.Module, x: Tensor, path: Path) -> Any:
    jaxlstm.from_module(model, (x,)).save(path)
    return jaxlstm.load_program(path)


@pytest.mark.parametrize("seed", seeds(fast=2, slow=200))
def test_argument_names(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    code = Code(seed)
    kind = code.module(tmp_path)
    model, x = Whole(kind(), len(code.names)).eval(), torch.randn(3, 4)
    expected = dict(zip(code.names, (layer(x) for layer in model.layers), strict=True))
    is_recorded = seed % 2 == 0
    program = (saved_by_jaxlstm if is_recorded else saved_by_torch)(model, x, tmp_path / "model.pt2")
    files = SourceFiles.of(program, tmp_path / "written.py")
    files.write(overwrite=True)
    written: Any = load_written(files)
    part = type(written.part)
    called, given, results = part.__call__, dict[str, Any](), list[Any]()

    def recorded(self: Any, *args: Any) -> Any:
        given.update(inspect.signature(called).bind(self, *args).arguments)
        results.append(called(self, *args))
        return results[-1]

    monkeypatch.setattr(part, "__call__", recorded)
    compare(written(x.numpy()), model(x), files)
    del given["self"]
    if is_recorded:
        compare(results, [model(x)], files)
        assert {*given} <= {code.names[0], "others", *code.names}
        if "others" in given:
            compare(given.pop("others"), tuple(expected[name] for name in code.names[1:]), files)
    for name in given.keys() & expected.keys():
        compare(given[name], expected[name], files)


def compare(written: Any, expected: Any, files: SourceFiles) -> None:
    """Compare nested results, which must have the same structure."""
    flat, structure = jax.tree.flatten(jax.tree.map(lambda x: x.detach().numpy(), expected))
    assert jax.tree.structure(written) == structure, files.text
    for ours, theirs in zip(jax.tree.leaves(written), flat, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=files.text)
