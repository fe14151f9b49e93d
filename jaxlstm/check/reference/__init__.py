"""The references: torch, a float64 oracle in NumPy, and the faults that can be planted in both."""
