"""Benchmarks of jaxlstm and of other libraries, for the repository only: they are not in the wheel.

``python -m benchmarks`` times the layer beside other libraries (`make bench`). Five more programs:

- ``python -m benchmarks.inference``: latency of a stream, throughput over many sequences.
- ``python -m benchmarks.checkpoint``: time and memory to read an LSTM from a large checkpoint.
- ``python -m benchmarks.long``: memory of a training step over a long sequence.
- ``python -m benchmarks.accuracy``: errors to float64 over the table of test cases.
- ``python -m benchmarks.verdicts``: the checker's verdict on other libraries' LSTMs.
"""
