"""Subjects: ports of an LSTM, Flax models, functions and programs under test."""
