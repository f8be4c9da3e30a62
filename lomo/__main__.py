"""`python -m lomo`."""

import sys

from lomo.warm import INTERRUPTED, hand_over

try:
    code = hand_over(sys.argv[1:])
    if code is None:
        from lomo.cli import main

        code = main()
except KeyboardInterrupt:
    code = INTERRUPTED
sys.exit(code)
