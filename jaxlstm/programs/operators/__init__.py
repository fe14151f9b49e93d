"""torch's operators in JAX, a file for each theme. Importing this package registers them."""

from __future__ import annotations

from jaxlstm.programs.operators import activations as activations
from jaxlstm.programs.operators import arithmetic as arithmetic
from jaxlstm.programs.operators import attention as attention
from jaxlstm.programs.operators import channels as channels
from jaxlstm.programs.operators import comparison as comparison
from jaxlstm.programs.operators import complex_numbers as complex_numbers
from jaxlstm.programs.operators import convolution as convolution
from jaxlstm.programs.operators import copies as copies
from jaxlstm.programs.operators import creation as creation
from jaxlstm.programs.operators import diagonals as diagonals
from jaxlstm.programs.operators import distances as distances
from jaxlstm.programs.operators import embeddings as embeddings
from jaxlstm.programs.operators import extrema as extrema
from jaxlstm.programs.operators import grids as grids
from jaxlstm.programs.operators import identity as identity
from jaxlstm.programs.operators import indexing as indexing
from jaxlstm.programs.operators import linear_algebra as linear_algebra
from jaxlstm.programs.operators import losses as losses
from jaxlstm.programs.operators import normalization as normalization
from jaxlstm.programs.operators import norms as norms
from jaxlstm.programs.operators import padding as padding
from jaxlstm.programs.operators import pairs as pairs
from jaxlstm.programs.operators import patches as patches
from jaxlstm.programs.operators import pooling as pooling
from jaxlstm.programs.operators import recurrent as recurrent
from jaxlstm.programs.operators import reductions as reductions
from jaxlstm.programs.operators import resampling as resampling
from jaxlstm.programs.operators import running as running
from jaxlstm.programs.operators import scatters as scatters
from jaxlstm.programs.operators import search as search
from jaxlstm.programs.operators import shapes as shapes
from jaxlstm.programs.operators import sizes as sizes
from jaxlstm.programs.operators import slices as slices
from jaxlstm.programs.operators import spectral as spectral
from jaxlstm.programs.operators import splits as splits
from jaxlstm.programs.operators import unary as unary
from jaxlstm.programs.operators import writes as writes

# The last one: it refers to the others.
from jaxlstm.programs.operators import synonyms as synonyms  # isort: skip
