"""Converters between PyTorch checkpoints and jaxlstm parameters, bit for bit and without torch.

The public functions are available as ``jaxlstm.load``, ``jaxlstm.save`` and so on.
"""
