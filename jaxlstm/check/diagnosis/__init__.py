"""The diagnosis of a failed verification: which fault explains it, and where it first shows."""
