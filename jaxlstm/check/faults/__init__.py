"""The catalogue of faults that ports have had. Each fault replaces one part of the oracle."""
