"""The filter of system calls, run here as the kernel would; and its numbers as it has them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from lomo.contained.system_calls import ALLOWED, MACHINES, filter_bytes

LET_IT, KILLED, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 38
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(program: bytes, number: int, audit: int) -> int:
    """What the kernel's machine makes of one call."""
    data, place, held = struct.pack("=II", number, audit), 0, 0
    instructions = list(struct.iter_unpack("=HBBI", program))
    while True:
        code, if_so, if_not, value = instructions[place]
        place += 1
        if code == 0x20:
            (held,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return value
        elif code in (0x15, 0x35):
            place += if_so if (held == value if code == 0x15 else held >= value) else if_not
        else:
            raise AssertionError(hex(code))


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_listed_is_let_through_and_nothing_else(machine: str) -> None:
    column, audit = MACHINES[machine]
    program = filter_bytes(machine)
    allowed = {pair[column] for pair in ALLOWED.values()} - {None}
    for number in range(1000):
        expected = LET_IT if number in allowed else NO_SUCH_CALL
        assert answer(program, number, audit) == expected, number
    for number in (0x40000000, 0x40000001, 0xFFFFFFFF):
        assert answer(program, number, audit) == NO_SUCH_CALL


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_other_machines_end_the_process(machine: str) -> None:
    for other in (
        0x40000003,
        *({audit for _, audit in MACHINES.values()} - {MACHINES[machine][1]}),
    ):
        assert answer(filter_bytes(machine), 0, other) == KILLED


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"the kernel's headers are not here: {HEADERS[machine]}")
    told = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    theirs = {name: int(number) for name, number in told}
    # One list for machines of 32 and of 64 bits: it has this one by its older name.
    theirs.setdefault("newfstatat", theirs.get("fstatat", -1))
    column = MACHINES[machine][0]
    wrong = {
        name: (pair[column], theirs.get(name))
        for name, pair in ALLOWED.items()
        if pair[column] is not None and pair[column] != theirs.get(name)
    }
    assert wrong == {}


def test_no_listed_call_makes_processes_sockets_files_or_memory_that_is_not_counted() -> None:
    never = """clone clone3 fork vfork socket socketpair connect bind accept pipe pipe2 ptrace
        process_vm_readv process_vm_writev memfd_create shmget mq_open unshare setns mount bpf
        io_uring_setup userfaultfd perf_event_open keyctl chmod mkdir rename unlink setuid"""
    assert set(never.split()) & set(ALLOWED) == set()
