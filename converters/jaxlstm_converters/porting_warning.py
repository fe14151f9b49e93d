"""The category of warnings about settings that a checkpoint does not record."""


class PortingWarning(UserWarning):
    """A setting that the source does not record and that may differ from the torch module's."""
