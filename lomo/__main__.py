"""`python -m lomo`."""

import sys

from lomo.cli import main

sys.exit(main())
