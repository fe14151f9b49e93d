"""Correct ports that compute differently; the checker must accept them."""

import numpy as np

from testing.wrong_ports import WrongPort, sigmoid

Array = np.ndarray


class BiasesSwapped(WrongPort):
    def biases(self, both: tuple[Array, Array], reverse: bool) -> tuple[Array, Array]:
        return both[1], both[0]


class BiasFolded(WrongPort):
    def biases(self, both: tuple[Array, Array], reverse: bool) -> tuple[Array, Array]:
        return both[0] + both[1], np.zeros_like(both[1])


class Concatenated(WrongPort):
    """One product of [x, h, 1] with the stacked kernels."""

    def cell(self, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        kernel, parts = [w["ih"], w["hh"]], [x, h]
        if "bias_ih" in w:
            kernel.append((w["bias_ih"] + w["bias_hh"])[None])
            parts.append(np.ones_like(x[:, :1]))
        z = np.concatenate(parts, -1) @ np.concatenate(kernel)
        i, f, g, o = np.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h @ w["hr"] if "hr" in w else h), c


class SigmoidThroughTanh(WrongPort):
    def sigmoid(self, z: Array) -> Array:
        half = z.dtype.type(0.5)
        return half + half * np.tanh(half * z)


class SummedBackwards(WrongPort):
    def product(self, x: Array, kernel: Array) -> Array:
        return np.ascontiguousarray(x[:, ::-1]) @ np.ascontiguousarray(kernel[::-1])


class SummedOneByOne(WrongPort):
    """A running sum over the features instead of a matrix product."""

    def product(self, x: Array, kernel: Array) -> Array:
        total = np.zeros((len(x), kernel.shape[1]), x.dtype)
        for feature, row in zip(x.T, kernel, strict=True):
            total = total + feature[:, None] * row
        return total


NUMPY = (
    WrongPort,
    BiasesSwapped,
    BiasFolded,
    Concatenated,
    SigmoidThroughTanh,
    SummedBackwards,
    SummedOneByOne,
)
