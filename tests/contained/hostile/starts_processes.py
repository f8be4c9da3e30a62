"""A fork bomb, of processes and of threads, by Python and by the bare system call."""

import ctypes
import os
import subprocess
import sys
import threading

FORK = {"x86_64": (57, 58, 56), "aarch64": (220,)}
started = []


def wait_for_ever():
    while True:
        pass


def double(x):
    for _ in range(50):
        try:
            if os.fork() == 0:
                wait_for_ever()
            started.append("fork")
        except OSError:
            pass
        try:
            threading.Thread(target=wait_for_ever).start()
            started.append("thread")
        except RuntimeError:
            pass
        try:
            subprocess.Popen([sys.executable, "-c", "while True: pass"])
            started.append("popen")
        except OSError:
            pass
        for number in FORK.get(os.uname().machine, ()):
            if ctypes.CDLL(None).syscall(number, 17, 0, 0, 0, 0) >= 0:
                started.append("call")
    print("started", started)
    return 0
