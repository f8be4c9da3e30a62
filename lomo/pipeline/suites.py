"""The commands behind the rules of section `suites`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lomo.errors import UserError
from lomo.system.command import Command, json_argument, say, say_aside
from lomo.system.processes import settle


def _suite_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spec", required=True, help="a suite run's spec as JSON, or a file with it (or a record)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the record")


def _suite(options: argparse.Namespace) -> None:
    from lomo.model.registry import local_entry
    from lomo.specs import SuiteSpec
    from lomo.system.strict import parse

    given = json_argument(options.spec, "--spec")
    spec = parse(SuiteSpec, given.get("spec", given), where="--spec")
    entry = local_entry(Path(spec.model_path), where="--spec: model_path")
    if entry.weights == "random":
        raise UserError("has random weights: there is nothing to score", where=spec.model_path)
    settle(spec.num_threads)
    from lomo.record.clock import Clock
    from lomo.run.suites.execute import execute_suite, finished_suite
    from lomo.run.suites.kept import FOLDER
    from lomo.study.native_dtype import why_slow
    from lomo.system.files import exclusive

    options.out.mkdir(parents=True, exist_ok=True)
    if slow := why_slow(spec.dtype, spec.device, spec.num_threads):
        say_aside(slow)
    with exclusive(options.out / ".lock") as waited_s:
        record = finished_suite(spec, options.out) if waited_s else None
        clock = Clock(waited_s=waited_s)
        record = record or execute_suite(spec, options.out, clock, FOLDER)
    parts = [record.run_id, record.status]
    if record.score is not None:
        parts.append(f"{record.score.metric} {100 * record.score.value:.1f}")
        parts.append(f"n {record.score.num_examples}")
    if record.reused_from is not None:
        parts.append(f"as scored by {record.reused_from}")
    say(f"{'  '.join(parts)}  ({record.clock.wall_s:.1f} s)")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, required=True, help="of the world's questions")
    parser.add_argument("--out", type=Path, required=True, help="folder for the suite")


def _data(options: argparse.Namespace) -> None:
    from lomo.record.made import note_folder
    from lomo.record.provenance import fingerprint
    from lomo.tasks.miniature.suite import write_suite

    subjects = write_suite(options.out, seed=options.seed)
    note_folder(options.out, seed=options.seed, code=fingerprint("generate_suites"))
    say(f"{len(subjects)} subjects in {options.out}")


COMMANDS = {
    "suite": Command(_suite_options, _suite),
    "suite-data": Command(_data_options, _data),
}
