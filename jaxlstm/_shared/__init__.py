"""Low-level code that both jaxlstm and jaxlstm_converters use; it imports neither of them."""
