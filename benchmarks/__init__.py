"""Benchmarks of jaxlstm and of other libraries, for the repository only: they are not in the wheel.

- ``python -m benchmarks NAME...`` runs some parts of :mod:`benchmarks.parts`.
- ``python -m benchmarks all --json benchmarks/results/MACHINE.json`` runs every part.
- ``python -m benchmarks tables`` rewrites the tables of the documentation from these files.
"""
