"""The one exception that a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Names of fewer letters are near each other by chance.
SHORT = 8


class UserError(ValueError):
    """A mistake that the person at the keyboard can mend: the command exits with code 2.

    The message says what is wrong, where (file and key), what is allowed, and what to do.
    """

    def __init__(
        self, what: str, *, where: str, allowed: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.allowed, self.fix = what, where, allowed, fix
        lines = [f"{where}: {what}"]
        if allowed:
            lines.append(f"  allowed: {allowed}")
        if fix:
            lines.append(f"  to mend: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between processes.
        return (_rebuild, (self.what, self.where, self.allowed, self.fix))


def _rebuild(what: str, where: str, allowed: str | None, fix: str | None) -> UserError:
    return UserError(what, where=where, allowed=allowed, fix=fix)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is likely meant to be, or None if it is like none of them.

    Short names differ in one letter at most (`lion` is no slip of `lora`), and numbers are no slip
    either (`llama-70b` is not `llama-7b`).
    """
    mine = _numbers(name)
    likely = [other for other in known if not mine or _numbers(other) in (mine, "")]
    if len(name) < SHORT:
        likely = [other for other in likely if _one_slip(name.lower(), other.lower())]
        return max(likely, key=lambda other: _likeness(name, other), default=None)
    matches = difflib.get_close_matches(name, likely, n=1, cutoff=0.7)
    return matches[0] if matches else None


def _one_slip(first: str, second: str) -> bool:
    """Whether one letter left out, put in, changed or swapped with the next makes one the other."""
    short, long = sorted((first, second), key=len)
    start = 0
    while start < len(short) and short[start] == long[start]:
        start += 1
    swapped = short[start : start + 2] == long[start : start + 2][::-1]
    rest = short[start:], long[start:]
    return (
        (rest[0][1:] == rest[1][1:] and len(short) == len(long))
        or rest[0] == rest[1][1:]
        or (swapped and rest[0][2:] == rest[1][2:])
    )


def _numbers(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
