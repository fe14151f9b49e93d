"""The calls of modules that led to each node, with the lines of the model's code."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.graph import Graph, ModuleCall
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from jaxlstm_converters.pt2.schema.calls import read_calls, without_paths
from testing.exported import save

ROOT = ("", "", f"{__name__}.Doubled")
LINEAR = "torch.nn.modules.linear.Linear"


class Shifted(nn.Linear):
    """A layer whose ``forward`` calls its base class's directly."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Doubled(nn.Module):
    """A layer called twice, in a region, in a list, and with packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), Shifted(3, 3))
        self.lstm = nn.LSTM(3, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = self.layers(x)
        with torch.no_grad():
            z = self.layers(y)
        packed, _ = self.lstm(nn.utils.rnn.pack_padded_sequence(y + z, lengths))
        return nn.utils.rnn.pad_packed_sequence(packed)[0]


ARGS = (torch.randn(5, 2, 3), torch.tensor([5, 2]))


def calls_of(graph: Graph, op: str) -> list[tuple[ModuleCall, ...]]:
    return [node.calls for node in graph.nodes if node.op == op]


def test_program_of_a_module(tmp_path: Path) -> None:
    """Saved and loaded programs have equal calls, and the file holds no path of this machine."""
    graph = jaxlstm.from_module(Doubled().eval(), ARGS).graph
    first, shifted, again, _ = calls_of(graph, "aten.linear.default")
    assert [call[:4] for call in first] == [
        (*ROOT, "y = self.layers(x)"),
        ("layers", "layers", "torch.nn.modules.container.Sequential", "input = module(input)"),
        ("layers.0", "layers.0", LINEAR, "return F.linear(input, self.weight, self.bias)"),
    ]
    assert [call.path for call in shifted] == ["", "layers", "layers.1"]
    assert [(call.path, call.line) for call in again] == [
        ("", "z = self.layers(y)"),
        *((call.path, call.line) for call in first[1:]),
    ]
    assert again[1].key != first[1].key
    (added,) = {calls[-1].line for calls in calls_of(graph, "aten.add.Tensor") if len(calls) == 3}
    assert added == "return super().forward(input) + 1"
    (lstm,) = calls_of(graph, "jaxlstm.packed_lstm.default")
    assert [call.path for call in lstm] == ["", "lstm"]

    jaxlstm.from_module(Doubled().eval(), ARGS).save(tmp_path / "a.pt2")
    loaded = jaxlstm.load_program(tmp_path / "a.pt2").graph
    assert [node.calls for node in loaded.nodes] == [node.calls for node in graph.nodes]
    content = (tmp_path / "a.pt2").read_bytes()
    for path in (__file__, torch.__file__):
        assert str(Path(path).parent).encode() not in content
    torch.export.load(tmp_path / "a.pt2")


def test_file_of_torch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    save(tmp_path / "a.pt2", model, ARGS[0])
    (relu,) = calls_of(read_pt2(tmp_path / "a.pt2").graph, "aten.relu.default")
    assert [call.line for call in relu] == [
        "input = module(input)",
        "return F.relu(input, inplace=self.inplace)",
    ]
    assert calls_of(jaxlstm.from_module(model, ARGS[:1]).graph, "aten.relu.default") == [relu]


STACK = "L__self__,,M;L__self__fc@1,fc,n.L"
TRACE = 'File "/home/me/m.py", line 2, in forward\n    x = f(x)\n  File "/m.py", line 9, in helper\n    y\n'


@pytest.mark.parametrize(
    ("stack", "trace", "lines"),
    [
        (STACK, TRACE + '  File "/m.py", line 4, in forward\n    return x', ["x = f(x)", "return x"]),
        (STACK, 'File "/m.py", line 2, in forward\n  File "/m.py", line 4, in forward\n    y', ["", "y"]),
        (
            STACK,
            TRACE + 'File "b", line 1, in forward\n    "\x1b[2J\u202e"',
            ["x = f(x)", r'"\x1b[2J\u202e"'],
        ),
        (STACK, "in forward\n    " + "x" * 1_000, ["x" * 397 + "...", ""]),
        (STACK, 'in method a b\n    x\n  File "/m.py", line 4, in forward\n    y', ["y", ""]),
        ("broken;", TRACE, []),
        (7, TRACE, []),
    ],
)
def test_texts(stack: object, trace: object, lines: list[str]) -> None:
    """Lines belong to the frames of "forward"; hostile texts become printable, or are left out."""
    calls = read_calls({"nn_module_stack": stack, "stack_trace": trace})
    assert [call.line for call in calls] == lines
    assert [call[:3] for call in calls] == [("", "", "M"), ("fc@1", "fc", "n.L")][: len(lines)]
    if isinstance(trace, str):
        assert read_calls({"nn_module_stack": stack, "stack_trace": without_paths(trace)}) == calls
        assert ".py" not in without_paths(trace)
    assert read_calls(None) == ()


def test_text_of_methods() -> None:
    trace = TRACE + '  File "/m.py", line 7, in method fc,m.L,3,step\n    z = 1\n' + TRACE
    calls = read_calls({"nn_module_stack": STACK, "stack_trace": trace})
    assert calls[1] == ("fc#3", "fc", "m.L", "z = 1", "step")
    assert [call.key for call in calls] == ["", "fc#3", "fc@1"]
    assert read_calls({"nn_module_stack": STACK, "stack_trace": without_paths(trace)}) == calls
