"""The calls of a graph as modules: which are layers of Flax, and how each is made and reached."""
