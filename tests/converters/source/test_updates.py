"""Written source of models that write in place, and of regions without gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testing.modules import module_of
from testing.written import assert_holds, write


def limited(self: Any, x: Tensor, *args: Tensor) -> Tensor:
    """A layer whose weights are limited in place, in two ways."""
    (factor,) = args
    self.out.bias.data.clamp_(max=0.1)
    with torch.no_grad():
        self.out.weight.mul_(0.5 / self.out.weight.norm(dim=1, keepdim=True))
    return self.out(x) * factor


def test_weights_that_are_limited_in_place_keep_their_gradient() -> None:
    x, factor = torch.randn(2, 3), torch.randn(2, 4)
    with pytest.warns(UserWarning, match=r"forward changes out\.weight"):
        written = write(module_of(limited, out=nn.Linear(3, 4)), x, factor)
    assert_holds(written, x, factor)
    assert "def __call__(self, x, factor):\n" in written.text
    assert "def __call__(self, x, weight, bias):\n" in written.text


def averaged(self: Any, x: Tensor) -> Tensor:
    """A moving average in a buffer, and a second write into one half of it."""
    y = self.out(x)
    with torch.no_grad():
        self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
        self.average[2:] = self.average[2:] + y[:, 2:].max(0).values
    return y - self.average


def test_an_average_that_is_updated_without_gradient() -> None:
    x = torch.randn(5, 3)
    model = module_of(averaged, out=nn.Linear(3, 4))
    model.register_buffer("average", torch.ones(4))
    written = write(model, x)
    assert_holds(written, x)
    assert written.text.count("stop_gradient") == 1
    assert "jaxlstm.programs" not in written.text


def frozen(self: Any, x: Tensor) -> Tensor:
    """Layers without a gradient, a write through a detached buffer, and a list that is made before a loop."""
    h = self.first(x)
    with torch.no_grad():
        y, _ = self.recurrent(self.second(h.sin())[None])
        y = self.chain(y[0])
    z = self.third(h)
    self.average.detach().mul_(0.9).add_(z.mean(0) * 0.1)
    a, b = self.heads[0](x), self.heads[1](x)
    for block in self.blocks:
        x = block(x) * torch.cat([a, b], 1)
    return x + y + z * self.average


def test_gradients_that_stop_at_layers() -> None:
    x = torch.randn(5, 4)
    layers: dict[str, nn.Module] = {name: nn.Linear(4, 4) for name in ("first", "second", "third")}
    sizes = {"blocks": 4, "heads": 2}
    layers |= {name: nn.ModuleList([nn.Linear(4, n) for _ in range(2)]) for name, n in sizes.items()}
    layers |= {"recurrent": nn.LSTM(4, 4), "chain": nn.Sequential(nn.ReLU(), nn.Linear(4, 4))}
    model = module_of(frozen, **layers)
    model.register_buffer("average", torch.ones(4))
    assert_holds(write(model, x), x)


def test_a_changed_buffer_keeps_its_value() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls

    x = torch.randn(2, 3)
    written = write(module_of(forward, calls=torch.zeros(3)), x)
    _, buffers = written.program.call_with_buffers({}, x.numpy())
    written.model(x.numpy())
    assert written.model.calls[...] == pytest.approx(buffers["calls"])


def viewed(_: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Writes through views, after a write to their base, and to a detached tensor."""
    y = x * 2
    flat = y.view(-1)
    y.sigmoid_()
    flat.neg_()
    z = y.detach()
    z[0] = x[1]
    y.diagonal().mul_(x[0])
    return y, z


def test_an_operator_in_place_runs_once_if_a_view_is_written_later() -> None:
    x = torch.randn(4, 4)
    written = write(module_of(viewed), x)
    assert_holds(written, x)
    assert written.text.count("sigmoid") == 1
