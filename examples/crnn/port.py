"""Port the text recogniser of ``train.py`` to Flax: fill it, prove it, fine-tune it, give it back to PyTorch.

``docs/crnn.md`` walks through this file::

    python examples/crnn/port.py [OUTPUT]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from images import CLASSES, accuracy, batch

import jaxlstm

CHECKPOINT = Path(__file__).parent / "crnn.pt"
SLANT, STEPS, BATCH = 0.25, 150, 64
NAMES = {"cnn.0": "conv0", "cnn.1": "bn0", "cnn.4": "conv1", "cnn.5": "bn1"}  # torch -> Flax


class CRNN(nnx.Module):
    """Map images (B, 1, 16, W) to logits (B, W / 2, classes), as the model in ``train.py`` does."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.conv0 = nnx.Conv(1, 16, (3, 3), padding=1, rngs=rngs)
        self.bn0 = norm(16)
        self.conv1 = nnx.Conv(16, 32, (3, 3), padding=1, rngs=rngs)
        self.bn1 = norm(32)
        self.lstm = jaxlstm.nnx.LSTM(32 * 4, 40, batch_first=True, bidirectional=True, rngs=rngs)
        self.head = nnx.Linear(80, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.transpose(0, 2, 3, 1)  # Flax has the channels last
        x = nnx.max_pool(nnx.relu(self.bn0(self.conv0(x))), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.bn1(self.conv1(x))), (2, 1), strides=(2, 1))
        batch, height, width, channels = x.shape
        columns = x.transpose(0, 2, 3, 1).reshape(batch, width, channels * height)  # torch's flatten order
        return self.head(self.lstm(columns)[0])


def load(path: Any = CHECKPOINT) -> CRNN:
    """Return the model with the weights of a checkpoint, in evaluation mode."""
    model = CRNN(rngs=nnx.Rngs(0))
    model.eval()
    jaxlstm.load_state_dict(model, path, names=NAMES)
    return model


def verify(model: CRNN) -> jaxlstm.check.Report:
    """Compare the model with the one in PyTorch: outputs and gradients."""
    import torch
    import train

    torch_model = train.CRNN()
    torch_model.load_state_dict(torch.load(CHECKPOINT, weights_only=True)["model_state_dict"])
    images, _, _ = batch(3, np.random.default_rng(2))
    return jaxlstm.check.verify_model(model, torch_model, (images,), names=NAMES)


@nnx.jit
def logits_of(model: CRNN, images: jax.Array) -> jax.Array:
    return model(images)


def evaluate(model: CRNN, slant: float = 0.0) -> float:
    """Return the accuracy on the 500 images on which ``train.py`` tests."""
    model.eval()
    images, _, texts = batch(500, np.random.default_rng(1), slant)
    return accuracy(np.asarray(logits_of(model, jnp.asarray(images))), texts)


@nnx.jit
def train_step(model: CRNN, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    def loss(model: CRNN) -> jax.Array:
        logits = model(images)
        return optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, labels == 0).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def fine_tune(model: CRNN) -> None:
    """Train the model in place on slanted text."""
    model.train()
    optimizer = nnx.Optimizer(model, optax.adam(4e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        images, labels, _ = batch(BATCH, rng, SLANT)
        loss = train_step(model, optimizer, jnp.asarray(images), jnp.asarray(labels))
        if step % 30 == 0:
            print(f"step {step}  loss {loss:.3f}", flush=True)
    model.eval()


def write_for_torch(model: CRNN, path: Path) -> None:
    """Write a checkpoint in the form of ``train.py``."""
    import torch

    state_dict = {name: torch.tensor(array) for name, array in jaxlstm.state_dict(model, names=NAMES).items()}
    torch.save({"model_state_dict": state_dict}, path)


def main() -> None:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "crnn-slanted.pt")
    model = load()
    report = verify(model)
    print(report.verdict)
    report.raise_if_failed()
    print(f"accuracy {evaluate(model):.3f}, on slanted text {evaluate(model, SLANT):.3f}")
    fine_tune(model)
    print(f"accuracy {evaluate(model):.3f}, on slanted text {evaluate(model, SLANT):.3f}")
    write_for_torch(model, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
