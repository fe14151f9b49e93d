"""What an export records of a live module, and changes while torch traces it."""
