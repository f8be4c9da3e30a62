"""The command `advise`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lomo.advise.question import question_of

NOTHING_FITS = 3


def run(options: argparse.Namespace, quieten: Callable[[], None], *, quiet: bool) -> int:
    """Prints the advice, and writes the study file where one is asked for; gives the exit code.

    Raises UserError for what cannot be asked, or written.
    """
    question = question_of(options)
    quieten()
    from lomo.advise.answer import advice_of
    from lomo.advise.text import as_json, as_text

    advice = advice_of(question, quiet=quiet)
    print(as_json(advice) if options.json else as_text(advice))
    if options.write is not None:
        from lomo.advise.study import write_study

        write_study(advice, options.model, options.write)
    fits = any(fit.batch_size for row in advice.rows for fit in row.fits)
    return 0 if fits else NOTHING_FITS
