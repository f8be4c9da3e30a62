"""Closes every file, so that nobody hears of it, and goes on."""

import os

os.closerange(0, 1024)
while True:
    pass
