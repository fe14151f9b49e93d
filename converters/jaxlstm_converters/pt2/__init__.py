"""Programs of torch.export: a `.pt2` file as a `jaxlstm.programs.graph.Graph` and its tensors."""
