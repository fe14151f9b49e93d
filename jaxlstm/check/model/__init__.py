"""Verification of whole models: their cases, results and layers, and the causes of a failure."""
