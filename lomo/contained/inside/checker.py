"""The process of the test: calls the program's function in the other one, and gives the verdict.

Only this process holds the nonce and the pipe of the verdict. Only plain data reaches it.
"""

from __future__ import annotations

import os
import random
import sys
from types import ModuleType
from typing import Any, BinaryIO

from .limits import limit
from .wire import decoded, encoded, is_plain, read_task, receive, send

_MAX_WHY = 300


class EndedError(Exception):
    """The other process is gone."""


class AnswerError(Exception):
    """What the other process has sent is no answer."""


class RaisedError(Exception):
    """The program raised; its words do not come over, only the name."""


class UnfitError(Exception):
    """The test asks with what can't be sent: no program could pass it here."""


class Remote:
    """The program's function, as the test sees it. Arguments are copies: it can't change ours."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self.requests, self.replies = requests, replies

    def __call__(self, *args: Any, **named: Any) -> Any:
        call = {"args": encoded(list(args)), "named": encoded(named)}
        if not is_plain(call):
            raise UnfitError
        try:
            send(self.requests, call)
            reply = receive(self.replies)
            if "raised" not in reply:
                return decoded(reply["value"])
        except (OSError, EOFError) as error:
            raise EndedError from error
        except Exception as error:  # whatever reading what another has made up can raise
            raise AnswerError from error
        raise RaisedError(str(reply["raised"]))


def main() -> None:
    """Writes to the pipe of the verdict that both sides have started, and then how it ended."""
    told = read_task()
    nonce, verdict = told["nonce"], os.fdopen(told["verdict"], "wb")
    requests, replies = os.fdopen(told["calls"], "wb"), os.fdopen(told["answers"], "rb")
    limit(told["cpu_s"], told["memory_bytes"])
    if "started" not in receive(replies):
        sys.exit("the other side did not start")
    send(verdict, {"nonce": nonce, "started": True})
    try:
        _check(told, Remote(requests, replies))
    except UnfitError:
        send(verdict, {"nonce": nonce, "unfit": True})
        return
    except BaseException as error:  # a test that exits has not passed
        send(verdict, {"nonce": nonce, "passed": False, "why": _why(error)})
        return
    send(verdict, {"nonce": nonce, "passed": True, "why": "passed"})


def _why(error: BaseException) -> str:
    if isinstance(error, EndedError):
        return "ended"
    if isinstance(error, RaisedError):
        return f"it raised {error}"[:_MAX_WHY]
    if isinstance(error, AnswerError):
        return "what it answered is no value"
    words = str(error).strip().splitlines()
    return f"the test raised {type(error).__name__}: {words[0] if words else ''}".rstrip(": ")[
        :_MAX_WHY
    ]


def _check(told: dict[str, Any], remote: Remote) -> None:
    try:
        loaded = receive(remote.replies)
    except (OSError, EOFError) as error:
        raise EndedError from error
    if "loaded" not in loaded:
        raise RaisedError(f"{loaded.get('not_loaded')} while it was loaded")
    test = ModuleType("test")
    sys.modules["test"] = test
    # Tests draw what they ask: the same for every program, and the next time.
    random.seed(0)
    # The prompt's own helpers are the test's too; of the function itself it holds but the head.
    exec(compile(told["prompt"], "prompt.py", "exec"), test.__dict__)
    test.__dict__[told["entry_point"]] = remote
    exec(compile(told["test"], "test.py", "exec"), test.__dict__)
    test.__dict__["check"](remote)


if __name__ == "__main__":
    main()
