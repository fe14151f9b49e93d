"""The graph as a person would have written it: loops, padded batches, sizes, calls of modules."""
