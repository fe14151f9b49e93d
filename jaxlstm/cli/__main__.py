"""``python -m jaxlstm.cli``, the same as the command ``jaxlstm``."""

import sys

from jaxlstm.cli import main

sys.exit(main())
