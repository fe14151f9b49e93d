"""torch's operators in JAX, a file for each theme. Importing this package registers them."""

from __future__ import annotations

from jaxlstm.models.operators import activations as activations
from jaxlstm.models.operators import arithmetic as arithmetic
from jaxlstm.models.operators import attention as attention
from jaxlstm.models.operators import channels as channels
from jaxlstm.models.operators import comparison as comparison
from jaxlstm.models.operators import complex_numbers as complex_numbers
from jaxlstm.models.operators import convolution as convolution
from jaxlstm.models.operators import copies as copies
from jaxlstm.models.operators import creation as creation
from jaxlstm.models.operators import diagonals as diagonals
from jaxlstm.models.operators import distances as distances
from jaxlstm.models.operators import embeddings as embeddings
from jaxlstm.models.operators import extrema as extrema
from jaxlstm.models.operators import grids as grids
from jaxlstm.models.operators import identity as identity
from jaxlstm.models.operators import indexing as indexing
from jaxlstm.models.operators import linear_algebra as linear_algebra
from jaxlstm.models.operators import losses as losses
from jaxlstm.models.operators import normalization as normalization
from jaxlstm.models.operators import norms as norms
from jaxlstm.models.operators import padding as padding
from jaxlstm.models.operators import pairs as pairs
from jaxlstm.models.operators import patches as patches
from jaxlstm.models.operators import pooling as pooling
from jaxlstm.models.operators import recurrent as recurrent
from jaxlstm.models.operators import reductions as reductions
from jaxlstm.models.operators import resampling as resampling
from jaxlstm.models.operators import running as running
from jaxlstm.models.operators import scatters as scatters
from jaxlstm.models.operators import search as search
from jaxlstm.models.operators import shapes as shapes
from jaxlstm.models.operators import sizes as sizes
from jaxlstm.models.operators import slices as slices
from jaxlstm.models.operators import spectral as spectral
from jaxlstm.models.operators import splits as splits
from jaxlstm.models.operators import unary as unary
from jaxlstm.models.operators import writes as writes

# The last one: it refers to the others.
from jaxlstm.models.operators import synonyms as synonyms  # isort: skip
