"""File formats that jaxlstm writes: safetensors, torch, Flax msgpack and Orbax."""
