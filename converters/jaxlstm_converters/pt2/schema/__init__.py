"""The JSON of a `.pt2` file as graphs, without torch."""
