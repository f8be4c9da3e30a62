"""The one exception that a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """The known name most like `name`, or None if none is like it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
