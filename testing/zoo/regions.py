"""Regions and functions of torch: no_grad, autocast, cond, while_loop, scan and map."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_slices
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from testing.zoo.specimen import Specimens


def rows(count: int, sign: int) -> tuple[Tensor]:
    return (sign * torch.rand(count, 3),)


SIZES = ((5, 1), (2, -1))
SPECIMENS = Specimens(example=(4, 1), others=SIZES, eager=SIZES)


def layers() -> dict[str, nn.Module]:
    return {"linear": nn.Linear(3, 3), "lstm": nn.LSTM(3, 3)}


@SPECIMENS.of(rows, layers)
def no_grad(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y, twice = self.linear(x), x * 2
        with torch.enable_grad():
            z = self.linear(y)
    return y + x, twice, z


@SPECIMENS.of(rows, layers)
def in_place(self: Any, x: Tensor) -> Any:
    """Inside of no_grad, the contents of a tensor change, and its gradient stays."""
    y = self.linear(x)
    with torch.no_grad():
        y[:, 1].mul_(3)
        y.mul_(2)
        same = y
    return y * same


@SPECIMENS.of(rows, layers)
def no_grad_in_regions(self: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        y = self.linear(x)
        with torch.no_grad():
            z = self.linear(y)
    with torch.inference_mode():
        w = self.linear(x)
    return y * z + w


@SPECIMENS.of(rows, layers)
def loop_without_gradient(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = loop(self, x)[1]
    return self.linear(y)


# bfloat16 has three digits.
@SPECIMENS.of(rows, layers, gradients=False, atol=1e-2)
def autocast(self: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.linear(x).relu()
        both = torch.cat([y, x]) @ x.T
        with torch.autocast("cpu", enabled=False):
            z = self.linear(self.lstm(y.float())[0])
            with torch.autocast("cpu", torch.bfloat16):
                z = z + self.linear(z)
    with torch.autocast("cuda", enabled=False):
        return y * self.linear.bias[0], both.softmax(-1), nn.functional.mse_loss(y, x), z


@SPECIMENS.of(rows, layers)
def branches(self: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: (self.linear(x), x + 1), lambda x: (x - 1, x * 2), (x,))


@SPECIMENS.of(rows, layers)
def branch_on_size(self: Any, x: Tensor) -> Any:
    return torch.cond(x.shape[0] > 4, lambda x: self.linear(x), lambda x: x.sin(), (x,))


@SPECIMENS.of(rows, layers, gradients=False)
def loop(self: Any, x: Tensor) -> Any:
    def body(i: Tensor, y: Tensor) -> Any:
        return i + 1, self.linear(y) / 2

    return while_loop(lambda i, y: i < x.shape[0], body, (torch.tensor(0), x))


@SPECIMENS.of(rows, layers)
def recurrence(self: Any, x: Tensor) -> Any:
    return scan(lambda carry, a: (self.linear(carry) + a, carry * 2), x[0], x, dim=0)


@SPECIMENS.of(rows, layers)
def of_slices(self: Any, x: Tensor) -> Any:
    return map_slices(lambda a, *args: self.linear(a) + 1, x)
