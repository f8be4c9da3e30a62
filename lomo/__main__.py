"""`python -m lomo`."""

import sys

from lomo.warm import hand_over

code = hand_over(sys.argv[1:])
if code is None:
    from lomo.cli import main

    code = main()
sys.exit(code)
