"""File formats that jaxlstm writes: safetensors, torch and NumPy."""
