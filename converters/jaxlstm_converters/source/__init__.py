"""Flax source of a program: the port that a person would write, which the user owns."""
