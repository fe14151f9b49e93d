"""torch.optim optimizers of a checkpoint as optax optimizers."""
