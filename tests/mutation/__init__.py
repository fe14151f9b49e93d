"""Mutation testing: is there a test that fails when a line is wrong? See docs/mutants.md."""
