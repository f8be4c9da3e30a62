"""The process of the program that nobody trusts: loads it, and answers calls of its function.

Whatever it does to this process, all it can send is data. It knows no answer, no test and no
nonce: those are in another process, in other namespaces.
"""

from __future__ import annotations

import os
import random
import sys
from types import ModuleType
from typing import Any, BinaryIO

from .limits import limit
from .wire import decoded, encoded, read_task, receive, send


def main() -> None:
    """Tells that it has started, then whether the program was loaded, then answers till the end."""
    told = read_task()
    requests, replies = os.fdopen(told["calls"], "rb"), os.fdopen(told["answers"], "wb")
    limit(told["cpu_s"], told["memory_bytes"])
    send(replies, {"started": True})
    sys.path.remove("/harness")
    os.chdir("/home")
    # What it draws is the same the next time.
    random.seed(0)
    try:
        function = _loaded(told["program"], told["entry_point"])
    except BaseException as error:  # whatever it raises, SystemExit too
        send(replies, {"not_loaded": type(error).__name__})
        return
    send(replies, {"loaded": True})
    _answer(function, requests, replies)


def _loaded(program: str, entry_point: str) -> Any:
    module = ModuleType("program")
    sys.modules["program"] = module
    exec(compile(program, "program.py", "exec"), module.__dict__)
    function = module.__dict__[entry_point]
    if not callable(function):
        raise TypeError(entry_point)
    return function


def _answer(function: Any, requests: BinaryIO, replies: BinaryIO) -> None:
    while True:
        try:
            call = receive(requests)
        except EOFError:  # the test has what it wanted
            return
        try:
            reply = {"value": encoded(function(*decoded(call["args"]), **decoded(call["named"])))}
        except BaseException as error:  # the same
            reply = {"raised": type(error).__name__}
        send(replies, reply)


if __name__ == "__main__":
    main()
