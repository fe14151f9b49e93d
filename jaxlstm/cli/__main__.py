"""``python -m jaxlstm.cli``, an alias of the command ``jaxlstm``."""

import sys

from jaxlstm.cli import main

sys.exit(main())
