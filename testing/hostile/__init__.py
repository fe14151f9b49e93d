"""Hostile checkpoints, and a process that reads them under limits."""
