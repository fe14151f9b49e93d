"""The text of written source: classes, names, loops and sizes. Every file runs and equals its program."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx
from torch import Tensor, nn

import jaxlstm
from jaxlstm_converters.source.files import SourceFiles
from jaxlstm_converters.source.graph.calls import with_tied_buffers
from testing.exported import save
from testing.image_reader import Reader
from testing.modules import module_of
from testing.written import Written, body_of, write, written_program
from testing.zoo.structure import tied


@pytest.fixture(scope="module")
def reader() -> Written:
    return write(Reader(), torch.randn(2, 1, 8, 12))


def test_equal_modules_are_one_class_and_a_loop(reader: Written) -> None:
    assert reader.text.count("class Block") == 1
    assert body_of(reader.text, "Block")[1].strip() == (
        "def __init__(self, in_features, *, strides=1, rngs: nnx.Rngs):"
    )
    body = "\n".join(body_of(reader.text, "Reader"))
    assert "Block(4, strides=(2, 1), rngs=rngs)" in body
    assert "for block in self.blocks:\n            x = block(x)\n" in body
    assert "def __call__(self, images):" in body
    assert "y, _ = self.rnn(" in body
    assert not reader.remarks


def test_channels_are_last_after_one_transposition(reader: Written) -> None:
    assert "transpose" not in "\n".join(body_of(reader.text, "Block"))
    assert reader.text.count(".transpose(") == 1


def test_comments_are_the_lines_of_the_code(reader: Written) -> None:
    text = SourceFiles.of(reader.program, "reader.py", comments=True).text
    assert "# x = images - self.mean" in text
    assert "# y, _ = self.rnn(x.mean(2).transpose(1, 2))" in text


def test_a_tied_weight_is_read_where_it_is_owned_and_has_all_its_names() -> None:
    module = tied()
    written = write(module, torch.randint(0, 7, (2, 3)))
    assert "self.embedding.embedding[...]" in written.text
    assert written.text.count("nnx.Param") == 0
    tensors = jaxlstm.state_dict(written.model)
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()}, strict=True)
    assert jaxlstm.load_state_dict(nnx.List([written.model]), nn.ModuleList([module])).complete
    with pytest.raises(jaxlstm.StateDictError, match=r"embedding\.weight and out\.weight differ"):
        jaxlstm.load_state_dict(written.model, {**tensors, "out.weight": tensors["out.weight"] + 1})


def test_rows_of_computed_lengths() -> None:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[0, : lengths[0]] = x[0, : lengths[0]].flip(0)
        return y

    x, lengths = torch.randn(2, 5), torch.tensor([5, 3])
    model = write(module_of(forward), x, lengths).model
    np.testing.assert_array_equal(model(x.numpy(), lengths.numpy()), forward(None, x, lengths))


def test_keyword_arguments() -> None:
    def forward(self: Any, x: Tensor, *, scale: Tensor) -> Tensor:
        return x * scale

    x, scale = torch.randn(2, 3), torch.randn(3)
    written = written_program(jaxlstm.from_module(module_of(forward), (x,), {"scale": scale}))
    actual = written.model(x.numpy(), scale=scale.numpy())
    assert actual == pytest.approx((x * scale).numpy())


def test_batch_norms_with_shared_weights_keep_their_statistics() -> None:
    """They are two modules, unlike one module with two names."""
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    second.weight, second.bias = first.weight, first.bias
    model = module_of(lambda self, x, z: self.first(x) + self.second(z), first=first, second=second)
    program = jaxlstm.from_module(model, (torch.rand(4, 3), torch.rand(4, 3)))
    assert program.tied.keys() == {"second.weight", "second.bias"}
    buffers = {name: np.asarray(buffer) for name, buffer in program.buffers.items()}
    assert with_tied_buffers(program.graph, program.tied, buffers) == program.tied


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_layer = nn.Linear(4, 4)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        scores = (memory @ self.query_layer(query)[..., None])[..., 0]
        weights = scores.masked_fill(mask, -9e9).softmax(-1)
        return (weights[..., None] * memory).sum(1)


def test_names_of_a_file_that_torch_saved(tmp_path: Path) -> None:
    """A line with several names tells which is which by its operators; memory and query were exchanged."""

    def forward(self: Any, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return self.attention(query.tanh(), memory.tanh(), mask == 0)

    arguments = torch.randn(2, 4), torch.randn(2, 3, 4), torch.ones(2, 3)
    save(tmp_path / "a.pt2", module_of(forward, attention=Attention()), *arguments)
    text = written_program(jaxlstm.load_program(tmp_path / "a.pt2")).text
    method = "\n".join(body_of(text, "Attention"))
    assert "self, query, memory, mask)" in method
    assert "scores = (memory @ self.query_layer(query)[..., None])[..., 0]" in method
