"""Records of a live module during an export, and changes of torch while it traces the module."""
