"""TorchScript archives as torch modules: their code is parsed, checked and interpreted, never executed."""
