"""The criteria: one list of them, and the pure functions of arrays that measure."""
