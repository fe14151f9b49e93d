"""Models with LSTMs, of the shapes that occur in practice."""

from testing.model_shapes import sound, text, vision_and_series

SHAPES = {**vision_and_series.SHAPES, **text.SHAPES, **sound.SHAPES}
