"""Writes over its own memory until it is killed."""

import ctypes


def double(x):
    for address in range(8, 1 << 20, 8):
        ctypes.memmove(address, b"x" * 8, 8)
