"""Python as syntax trees: names, templates, and shorter forms of expressions."""
