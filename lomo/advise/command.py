"""The command `advise`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lomo.advise.question import question_of


def run(options: argparse.Namespace, quieten: Callable[[], None], *, quiet: bool) -> None:
    """Prints the advice, and writes the study file where one is asked for. Raises UserError."""
    question = question_of(options)
    quieten()
    from lomo.advise.answer import advice_of
    from lomo.advise.text import as_json, as_text

    advice = advice_of(question, quiet=quiet)
    print(as_json(advice) if options.json else as_text(advice))
    if options.write is not None:
        from lomo.advise.study import write_study

        write_study(advice, options.model, options.write)
