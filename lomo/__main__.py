"""`python -m lomo`."""

import sys

try:
    from lomo.pipeline.warm import hand_over

    code = hand_over(sys.argv[1:])
    if code is None:
        from lomo.cli import main

        code = main()
except KeyboardInterrupt:
    code = 130  # as a shell tells it
sys.exit(code)
