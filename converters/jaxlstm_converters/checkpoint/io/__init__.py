"""Files, byte streams, encodings (zip, JSON, protocol buffers), storages and tensors."""
