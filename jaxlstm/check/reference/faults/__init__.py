"""The catalogue of known faults of ports. Each fault replaces one part of the oracle."""
