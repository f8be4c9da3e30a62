"""Takes no processor time, and never ends."""

import time


def double(x):
    while True:
        time.sleep(3600)
