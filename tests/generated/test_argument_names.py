"""Written source of random submodules: an argument with a name of the user's is that argument."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

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
        self.lines.append(
            f"return {' + '.join(f'{n} * {k + 2}' for k, n in enumerate(dict.fromkeys(known)))}"
        )

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
    def forward(self, {", ".join(self.names)}):
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

    def forward(self, x: Tensor) -> Tensor:
        return self.part(*(layer(x) for layer in self.layers))


@pytest.mark.parametrize("seed", seeds(fast=2, slow=200))
def test_argument_names(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    code = Code(seed)
    kind = code.module(tmp_path)
    model, x = Whole(kind(), len(code.names)).eval(), torch.randn(3, 4)
    expected = dict(zip(code.names, (layer(x) for layer in model.layers), strict=True))
    files = SourceFiles.of(jaxlstm.from_module(model, (x,)), tmp_path / "written.py")
    files.write(overwrite=True)
    written: Any = load_written(files)
    part = type(written.part)
    called, arguments = part.__call__, {}

    def recorded(self: Any, *args: Any) -> Any:
        arguments.update(inspect.signature(called).bind(self, *args).arguments)
        return called(self, *args)

    monkeypatch.setattr(part, "__call__", recorded)
    np.testing.assert_allclose(written(x.numpy()), model(x).detach(), atol=1e-5)
    for name in arguments.keys() & expected.keys():
        np.testing.assert_allclose(arguments[name], expected[name].detach(), atol=1e-6, err_msg=files.text)
