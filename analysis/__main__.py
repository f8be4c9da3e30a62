"""`python -m lomo_analysis`."""

import sys

try:
    from .cli import main

    code = main()
except KeyboardInterrupt:
    code = 130  # as a shell tells it
sys.exit(code)
