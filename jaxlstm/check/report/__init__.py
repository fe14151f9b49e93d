"""Reports: the data classes and their renderers."""
