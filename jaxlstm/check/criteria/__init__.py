"""The criteria: pure functions of arrays that measure a quantity and compare it with its limit."""
