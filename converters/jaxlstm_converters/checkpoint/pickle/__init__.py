"""An interpreter for pickles that imports nothing and calls only functions of this package."""
