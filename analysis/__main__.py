"""`python -m lomo_analysis`."""

import gc
import sys

# A command ends before its garbage matters; to look for it again and again among the values of ten
# thousand runs takes a fifth of the time.
gc.disable()
try:
    from .cli import main

    code = main()
except KeyboardInterrupt:
    code = 130  # as a shell tells it
sys.exit(code)
