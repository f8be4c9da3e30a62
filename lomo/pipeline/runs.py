"""The commands `runs`, `train` and `measure`: a study's runs listed, and one of them done."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.system.command import SILENT, Command, json_argument, say, say_aside
from lomo.system.processes import settle


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study", help="study file, such as config/tiny.yaml, or its content as JSON"
    )
    parser.add_argument("--out", type=Path, help="also write them as JSON to this file")
    parser.add_argument("--source", help="the study file, where its content is given")


def _list(options: argparse.Namespace) -> None:
    from lomo.study.config import Study
    from lomo.study.plan import make_plan
    from lomo.system.files import write_text
    from lomo.system.strict import parse, read_yaml

    given = options.study.lstrip().startswith("{")
    source = options.source or ("command line" if given else options.study)
    data = json_argument(options.study, source) if given else read_yaml(Path(options.study))
    plan = make_plan(parse(Study, data, where=source), source=source)
    if options.out:
        write_text(options.out, plan.model_dump_json(indent=1) + "\n")
    for section, run_ids in plan.sections.items():
        print(f"{section}: {len(run_ids)} runs")
    print(f"{plan.study.study}: {len(plan.runs)} runs in all")


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spec", required=True, help="a run's spec as JSON, or a file with it (or a record)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the record")
    parser.add_argument(
        "--estimates", type=Path, help="of `plan`: what will not fit is recorded, not launched"
    )


def _run(options: argparse.Namespace) -> None:
    from lomo.study.plan import check_model, read_spec

    spec = read_spec(json_argument(options.spec, "--spec"), where="--spec")
    check_model(spec, where="--spec")
    settle(spec.num_threads)
    from lomo.engines.launch import (
        end_with_launcher,
        is_rank,
        last_words,
        leave,
        rank_started_at,
    )
    from lomo.forecast.unlaunched import record_without_launch
    from lomo.record.clock import Clock
    from lomo.run.execute import execute, finished, launch_ranks
    from lomo.study.native_dtype import why_slow
    from lomo.system.lock import exclusive

    if is_rank():
        end_with_launcher()
        with last_words():
            done = execute(spec, options.out, Clock(started_at=rank_started_at()))
        if os.environ["RANK"] == "0":
            _say_ended(done)
        leave()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be made ({error.strerror})", where=f"--out {options.out}"
        ) from error
    if slow := why_slow(spec.dtype, spec.device, spec.num_threads):
        say_aside(slow)
    with exclusive(options.out / ".lock") as waited_s:
        # Only where we waited: a record that stood here before was there to be replaced.
        record = finished(spec, options.out) if waited_s else None
        clock = Clock(waited_s=waited_s)
        if record is None and options.estimates is not None:
            record = record_without_launch(spec, options.estimates, options.out, clock)
        # DeepSpeed reads of the environment that it is a rank, also where it is the only one.
        if record is None and (spec.num_devices > 1 or spec.engine == "zero3"):
            arguments = [spec.kind, "--spec", options.spec, "--out", str(options.out)]
            launch_ranks(spec, arguments, options.out, clock)
            return
        record = record or execute(spec, options.out, clock)
    _say_ended(record)


def _one_line(record: Any) -> str:
    parts = [record.run_id, record.status]
    if record.result:
        parts.append(f"accuracy {100 * record.result.value:.1f}")
    if record.memory:
        parts.append(f"peak {record.memory.peak_bytes / 2**20:.1f} MiB")
    if record.throughput:
        parts.append(f"{record.throughput.tokens_per_s_per_device:,.0f} tokens/s")
    return f"{'  '.join(parts)}  ({record.clock.wall_s:.1f} s)"


def _say_ended(record: Any) -> None:
    """Its line; where one line of progress stands for all, only of a run that did not end well."""
    if record.status != "ok" or not os.environ.get(SILENT):
        say(_one_line(record))


COMMANDS = {
    "runs": Command(_list_options, _list),
    "train": Command(_run_options, _run),
    "measure": Command(_run_options, _run),
}
