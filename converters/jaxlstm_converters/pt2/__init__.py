"""Programs of torch.export: a `.pt2` file as a `jaxlstm.models.graph.Graph` and its tensors."""
