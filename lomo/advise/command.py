"""The command `advise`."""

from __future__ import annotations

import argparse

from lomo.advise.question import add_options, question_of
from lomo.system.command import NO, QUIET, Command
from lomo.system.process import quieten
from lomo.system.waiting import waiting


def run(options: argparse.Namespace) -> int:
    """Prints the advice, and writes the study file where one is asked for; gives the exit code.

    Raises UserError for what cannot be asked, or written.
    """
    quieten()
    progress = not QUIET
    with waiting("loading torch and the model's code", shown=progress):
        question = question_of(options)
        from lomo.advise.answer import advice_of
        from lomo.advise.text import as_json, as_text
        from lomo.memory.predicted import peaks  # noqa: F401 (else each process imports it)

    advice = advice_of(question, progress=progress)
    told = as_json if options.json else as_text
    print(told(advice, options.write))
    if options.write is not None:
        from lomo.advise.study import write_study

        write_study(advice, options.model, options.write)
    fits = any(fit.batch_size for row in advice.rows for fit in row.fits)
    return 0 if fits else NO


COMMANDS = {"advise": Command(add_options, run)}
