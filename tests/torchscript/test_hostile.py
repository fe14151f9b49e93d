"""Archives whose code is not what torch prints: refused with file, line and construct; nothing runs."""

import functools
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import jaxlstm

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")

HEAD = """class Net(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
  def forward(self: __torch__.Net, x: Tensor) -> Tensor:
"""


@functools.cache
def entries() -> dict[str, bytes]:
    """Return the entries of the archive of a module without attributes."""
    buffer = io.BytesIO()
    net = type("Net", (torch.nn.Module,), {"__module__": "__main__"})()
    torch.jit.save(torch.jit.script(net), buffer)
    with zipfile.ZipFile(buffer) as source:
        return {name: source.read(name) for name in source.namelist()}


def archive_with(tmp_path: Path, code: str) -> Path:
    """Write the archive with other code."""
    path = tmp_path / "net.jit"
    with zipfile.ZipFile(path, "w") as target:
        for name, raw in entries().items():
            target.writestr(name, code if name.endswith("__torch__.py") else raw)
    return path


READ = {
    "import": ("import os", "Import"),
    "a call at the top": ("print(1)", "Expr"),
    "garbage": ("\0\1", "not the text of TorchScript"),
    "text that torch escapes": (HEAD + "    return '\u00e9'", "not ASCII"),
    "a version": ("op_version_set = 2", "Assign"),
    "a decorator": ("@x\ndef f(a: int) -> int:\n  return a", "decorators"),
    "a lambda": (HEAD + "    return (lambda: x)()", ":7: Lambda"),
    "a comprehension": (HEAD + "    return [i for i in x]", ":7: ListComp"),
    "an f-string": (HEAD + "    return f'{x}'", ":7: JoinedStr"),
    "a walrus": (HEAD + "    return (y := x)", ":7: NamedExpr"),
    "an operator": (HEAD + "    return x + x", ":7: BinOp"),
    "a try": (HEAD + "    try:\n      pass\n    except:\n      pass", ":7: Try"),
    "a nested function": (HEAD + "    def f():\n      pass", ":7: FunctionDef"),
    "a global": (HEAD + "    global y", ":7: Global"),
    "a delete": (HEAD + "    del x", ":7: Delete"),
    "stars": (HEAD + "    return torch.add(*x)", ":7: Starred"),
    "deep parentheses": (
        HEAD + "    return " + "(" * 150 + "x" + ")" * 150 + "\n" + "-" * 99999 + "x",
        "TorchScript",
    ),
    "a deep attribute": (HEAD + "    return x" + ".a" * 5000, "nested|TorchScript"),
    "a large text": (HEAD + "    pass\n" * 900_000, "more than 2097152 bytes"),
}
RUN = {
    "a dunder attribute": ("return x.__class__", "has no attribute '__class__'"),
    "a dunder of a module": ("return self.__dict__", "has no attribute '__dict__'"),
    "a method of torch": ("return (self).register_buffer('a', x, )", "no method 'register_buffer'"),
    "a builtin": ("return eval('1')", "the function 'eval' is not defined"),
    "an import": ("return __import__('os')", "the function '__import__' is not defined"),
    "a hidden operator": ("return torch.from_file('a')", "torch.from_file is not supported"),
    "an operator of torch's modules": ("return torch.ops.load_library('a')", "torch.ops.load_library"),
    "another namespace": ("return ops.quantized.add(x, x)", "quantized::add is not supported"),
    "a missing constant": ("return CONSTANTS.c7", "the constant 'c7' is not in the archive"),
    "a missing function": ("return __torch__.os.system(x, )", "__torch__.os.system is not in the archive"),
    "an unknown name": ("return y", "the name 'y' is not defined"),
    "a format of attributes": ("return torch.format('{0.__class__}', 1)", "does not have 1 placeholders"),
    "recursion": ("return (self).forward(x, )", "more than 50 calls"),
    "an endless loop": ("while True:\n      pass", "more than 1000 statements"),
    "a list that doubles": ("y = [x]\n    while True:\n      y = torch.add(y, y)", "more than 1000000"),
    "a text that doubles": ("y = 'ab'\n    while True:\n      y = torch.add(y, y)", "more than 1000000"),
    "a loop of lists": ("for i in x:\n      pass", "a loop that is not over range"),
    "a context": ("with x:\n      pass", "`with` of a Tensor"),
}


@pytest.mark.parametrize("label", READ)
def test_code_that_is_refused_when_it_is_read(label: str, tmp_path: Path) -> None:
    code, message = READ[label]
    path = archive_with(tmp_path, code)
    started = time.process_time()
    with pytest.raises(jaxlstm.CheckpointError, match=message) as caught:
        jaxlstm.load_torchscript(path)
    assert caught.value.code.startswith("torchscript-")
    assert time.process_time() - started < 2
    assert jaxlstm.read_checkpoint(path).container == "TorchScript"  # The tensors are read as before.


@pytest.mark.parametrize("label", RUN)
def test_code_that_is_refused_when_it_runs(label: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("jaxlstm_converters.torchscript.interpreter.MAX_STEPS", 1000)
    code, message = RUN[label]
    module: Any = jaxlstm.load_torchscript(archive_with(tmp_path, HEAD + "    " + code))
    with pytest.raises(jaxlstm.CheckpointError, match=rf"code/__torch__\.py:\d+: .*{message}"):
        module(torch.ones(2))
