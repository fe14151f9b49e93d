"""File formats that jaxlstm writes: safetensors and torch."""
