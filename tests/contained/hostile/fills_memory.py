"""Takes memory until there is none."""

held = []


def double(x):
    size = 1 << 30
    while True:
        try:
            held.append(bytearray(size))
        except MemoryError:
            size //= 2
            if size < 1024:
                raise
