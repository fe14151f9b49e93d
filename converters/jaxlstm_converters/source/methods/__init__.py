"""The statements of the methods of one module."""
