"""Faults that ports of torch models have had, as changes of single operations of a torch module."""
