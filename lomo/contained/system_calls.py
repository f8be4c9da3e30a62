"""The system calls that a contained program may make, as a filter of the kernel's (seccomp).

What is not listed does not exist for it: no process or thread is started, no socket, pipe or shared
memory opened, no other process traced. So the limit to one process holds for root
too, whom the kernel's own limit on processes does not bind.
"""

from __future__ import annotations

import platform
import struct

# name: (number on x86_64, number on aarch64); None where that kernel has no such call.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "close": (3, 57),
    "lseek": (8, 62),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "getdents64": (217, 61),
    "mmap": (9, 222),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "wait4": (61, 260),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "execve": (59, 221),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "getrandom": (318, 278),
}
# machine: (its column above, its number in the kernel's audit table)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Where the kernel's struct seccomp_data holds the call's number and the machine's.
_NUMBER_AT, _MACHINE_AT = 0, 4
# Operations of the kernel's classic packet filter.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_LET_IT, _KILL, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 38
# x86_64 has each call a second time, from here on, for programs with short pointers.
_X32 = 0x40000000


def filter_bytes(machine: str | None = None) -> bytes:
    """The filter as bubblewrap reads it (struct sock_filter, 8 bytes an instruction).

    A listed call is let through, any other is answered "no such call", and one made as another
    machine's ends the process. Raises KeyError for a machine that is not in MACHINES.
    """
    column, audit = MACHINES[machine or platform.machine()]
    numbers = sorted(number for pair in ALLOWED.values() if (number := pair[column]) is not None)
    program = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, len(numbers), 0, _X32),
    ]
    # A jump counts the instructions that it leaves out: over the rest of the list and the refusal.
    for place, number in enumerate(numbers):
        program.append((_IF_EQUAL, len(numbers) - place, 0, number))
    program += [(_RETURN, 0, 0, _NO_SUCH_CALL), (_RETURN, 0, 0, _LET_IT)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
