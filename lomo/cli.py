"""The command line: what a rule runs, a person can paste.

Exit codes: 0 the command did its work (a run's record may still say oom or diverged), 2 what the
user can mend (a mistake, a full disk), 3 the answer is no (nothing that was asked fits the card),
130 Ctrl-C, 1 a bug.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lomo import doctor, plan_command, status_command
from lomo.advise import question as advise_question
from lomo.errors import UserError
from lomo.files import cannot_use, parse_json, read_text
from lomo.interrupts import INTERRUPTED
from lomo.memory import ask, fits
from lomo.process import quieten, settle
from lomo.progress import CLEAR, SILENT
from lomo.version import Version

QUIET = bool(os.environ.get("LOMO_QUIET"))


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit code. Without one, prints what there is."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        return ended(parser.print_help)
    return ended(lambda: options.command(options))


def ended(command: Callable[[], object]) -> int:
    """Does what a command line asked for; the exit code that tells how it ended.

    A command may give one itself; one that gives None has done its work.
    """
    try:
        code = command()
        sys.stdout.flush()
    except UserError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        told = cannot_use(error)
        if told is None:
            raise
        if error.filename is None:  # its output; what waits in the buffer would fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return refuse(told)
    return code if isinstance(code, int) else 0


def refuse(error: UserError) -> int:
    """Tells the user of their mistake; gives the exit code for it."""
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except OSError:
        # A job's stderr is its log, which may lie on the disk that is full: stdout is the console.
        with contextlib.suppress(OSError):
            print(f"error: {error}", flush=True)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lomo", description=__doc__)
    parser.add_argument("--version", action=Version, help="package version and git commit")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    runs = commands.add_parser("runs", help="list all runs of a study, checked")
    runs.add_argument("study", help="study file, such as config/tiny.yaml, or its content as JSON")
    runs.add_argument("--out", type=Path, help="also write them as JSON to this file")
    runs.add_argument("--source", help="the study file, where its content is given")
    runs.set_defaults(command=_runs)

    planned = commands.add_parser("plan", help="memory, time and disk of a study, without a run")
    plan_command.add_options(planned)
    planned.set_defaults(command=_plan)

    status = commands.add_parser("status", help="how a study stands: runs, failures, time left")
    status_command.add_options(status)
    status.set_defaults(command=_status)

    doctor_ = commands.add_parser("doctor", help="what this machine has and lacks, each with a fix")
    doctor.add_options(doctor_)
    doctor_.set_defaults(command=_doctor)

    reference = commands.add_parser("reference", help="write config/README.md's reference anew")
    reference.set_defaults(command=_reference)

    data = commands.add_parser("data", help="make the generated miniature of SuperGLUE")
    data.add_argument("--out", type=Path, required=True, help="folder for the tasks")
    data.add_argument("--text", type=Path, help="file for the pretraining text")
    data.add_argument("--spec", required=True, help="the study's `generated` block as JSON")
    data.set_defaults(command=_data)

    pretrain = commands.add_parser("pretrain", help="make a base model from generated text")
    pretrain.add_argument("--spec", required=True, help="the model's registry entry as JSON")
    pretrain.add_argument("--text", type=Path, required=True, help="pretraining text")
    pretrain.add_argument("--out", type=Path, required=True, help="folder for the model")
    pretrain.set_defaults(command=_pretrain)

    architecture = commands.add_parser("architecture", help="write config.json for random weights")
    architecture.add_argument("--spec", required=True, help="the model's registry entry as JSON")
    architecture.add_argument("--out", type=Path, required=True, help="the file")
    architecture.set_defaults(command=_architecture)

    fetch = commands.add_parser("fetch", help="download what is pinned (network)")
    fetch.add_argument("what", choices=["model", "superglue", "modelling"])
    fetch.add_argument("--spec", help="the model's registry entry as JSON")
    fetch.add_argument("--requirements", type=Path, help="file with the modelling code's packages")
    fetch.add_argument("--out", type=Path, required=True, help="folder for it")
    fetch.set_defaults(command=_fetch)

    warm = commands.add_parser("warm", help="import once, then fork each run that asks")
    warm.add_argument("--socket", type=Path, required=True, help="where runs ask")
    warm.set_defaults(command=_warm)

    wandb = commands.add_parser("wandb", help="write a study's records as offline W&B runs")
    wandb.add_argument("--results", type=Path, required=True, help="results/<study>")
    wandb.set_defaults(command=_wandb)

    predict = commands.add_parser("predict", help="the memory of a step, without a run")
    ask.add_options(predict)
    predict.set_defaults(command=_predict)

    fit = commands.add_parser("fits", help="the largest batches that fit a card, without a run")
    fits.add_options(fit)
    fit.set_defaults(command=_fits)

    advise = commands.add_parser("advise", help="what fits a card, how fast, what it loses")
    advise_question.add_options(advise)
    advise.set_defaults(command=_advise)

    predictions = commands.add_parser("predictions", help="predict all that a study measures")
    predictions.add_argument("--results", type=Path, required=True, help="results/<study>")
    predictions.add_argument("--processes", type=int, default=1, help="how many at a time")
    predictions.add_argument(
        "--modelling", type=Path, help="folder with transformers of June 2023: the paper's rows"
    )
    predictions.set_defaults(command=_predictions)

    for kind, text in (
        ("train", "train on one task and score it"),
        ("measure", "measure memory and throughput of a training step"),
    ):
        run = commands.add_parser(kind, help=text)
        run.add_argument(
            "--spec", required=True, help="a run's spec as JSON, or a file with it (or a record)"
        )
        run.add_argument("--out", type=Path, required=True, help="folder for the record")
        run.add_argument(
            "--estimates", type=Path, help="of `plan`: what will not fit is recorded, not launched"
        )
        run.set_defaults(command=_run)
    return parser


def _json_argument(text: str, where: str) -> dict[str, Any]:
    try:
        data = parse_json(text if text.lstrip().startswith("{") else read_text(Path(text)))
    except ValueError as error:  # a UserError is one too
        raise UserError(f"is neither JSON nor a file with JSON: {error}", where=where) from error
    if not isinstance(data, dict):
        raise UserError("is not a JSON object", where=where)
    return data


def _runs(options: argparse.Namespace) -> None:
    from lomo.config import Study
    from lomo.files import write_text
    from lomo.plan import make_plan
    from lomo.strict import parse, read_yaml

    given = options.study.lstrip().startswith("{")
    source = options.source or ("command line" if given else options.study)
    data = _json_argument(options.study, source) if given else read_yaml(Path(options.study))
    plan = make_plan(parse(Study, data, where=source), source=source)
    if options.out:
        write_text(options.out, plan.model_dump_json(indent=1) + "\n")
    for section, run_ids in plan.sections.items():
        print(f"{section}: {len(run_ids)} runs")
    print(f"{plan.study.study}: {len(plan.runs)} runs in all")


def _plan(options: argparse.Namespace) -> None:
    plan_command.check(options)  # before the imports
    settle()
    print(plan_command.answer(options, _say_aside))


def _status(options: argparse.Namespace) -> None:
    print(status_command.answer(options))


def _doctor(options: argparse.Namespace) -> int:
    text, code = doctor.answer(options)
    print(text)
    return code


def _reference(_: argparse.Namespace) -> None:
    from lomo import reference

    reference.write()


def _data(options: argparse.Namespace) -> None:
    from lomo.config import Generated
    from lomo.made import note_folder
    from lomo.provenance import fingerprint
    from lomo.strict import parse
    from lomo.tasks import miniature

    spec = parse(Generated, _json_argument(options.spec, "--spec"), where="--spec")
    miniature.write_superglue(
        options.out, seed=spec.seed, num_train=spec.num_train, num_val=spec.num_val
    )
    if options.text:
        miniature.write_text(options.text, seed=spec.seed, num_sentences=spec.num_sentences)
    note_folder(options.out, spec=spec.model_dump(mode="json"), code=fingerprint("generate"))
    _say(f"six tasks of {spec.num_train} + {spec.num_val} items in {options.out}")


def _pretrain(options: argparse.Namespace) -> None:
    from lomo.models import ModelEntry
    from lomo.strict import parse

    entry = parse(ModelEntry, _json_argument(options.spec, "--spec"), where="--spec")
    settle()
    # Saving a model makes transformers import deepspeed, which warns where it finds no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from lomo.lock import exclusive
    from lomo.made import note_folder
    from lomo.pretrain import make_base_model
    from lomo.provenance import fingerprint

    with exclusive(options.out.with_name(f".{options.out.name}.lock")) as waited:
        if not (waited and (options.out / "model.safetensors").is_file()):
            loss = make_base_model(entry, options.text, options.out, progress=not QUIET)
            spec = entry.model_dump(mode="json")
            note_folder(options.out, spec=spec, code=fingerprint("pretrain"))
            _say(f"pretrained {entry.name}  loss {loss:.3f}")


def _architecture(options: argparse.Namespace) -> None:
    from lomo.files import write_text
    from lomo.models import ModelEntry, random_config
    from lomo.strict import parse

    entry = parse(ModelEntry, _json_argument(options.spec, "--spec"), where="--spec")
    if entry.weights != "random":
        raise UserError("has weights of its own", where=f"--spec: {entry.name}")
    write_text(options.out, json.dumps(random_config(entry), indent=1) + "\n")


def _fetch(options: argparse.Namespace) -> None:
    from lomo import fetch
    from lomo.models import ModelEntry
    from lomo.strict import parse

    if options.what == "superglue":
        fetch.superglue(options.out)
        return
    if options.what == "modelling":
        if not options.requirements:
            raise UserError("is needed to fetch modelling code", where="--requirements")
        fetch.modelling(options.requirements, options.out)
        return
    if not options.spec:
        raise UserError("is needed to fetch a model", where="--spec")
    entry = parse(ModelEntry, _json_argument(options.spec, "--spec"), where="--spec")
    fetch.model(entry, options.out)


def _run(options: argparse.Namespace) -> None:
    from lomo.plan import check_model, read_spec

    spec = read_spec(_json_argument(options.spec, "--spec"), where="--spec")
    check_model(spec, where="--spec")
    settle(spec.num_threads)
    from lomo.clock import Clock
    from lomo.engines.launch import is_rank, last_words, leave, rank_started_at
    from lomo.foresight import record_without_launch
    from lomo.lock import exclusive
    from lomo.native_dtype import why_slow
    from lomo.run import execute, finished, launch_ranks

    if is_rank():
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
        _say_aside(slow)
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


def _wandb(options: argparse.Namespace) -> None:
    from lomo.belief import read_believed
    from lomo.made import note, page, sources_of
    from lomo.plan import read_plan
    from lomo.wandb_runs import publish

    plan = read_plan(options.results)
    # What is not believed is told to nobody.
    read_believed(options.results, plan.runs, keep=lambda record: None)
    publish(options.results, list(plan.runs))
    note(page(options.results, "wandb"), **sources_of("wandb", options.results, plan))


def _predict(options: argparse.Namespace) -> int:
    quieten()
    text, code = ask.answer(options, progress=not QUIET)
    print(text)
    return code


def _fits(options: argparse.Namespace) -> int:
    quieten()
    text, code = fits.answer(options, progress=not QUIET)
    print(text)
    return code


def _advise(options: argparse.Namespace) -> int:
    from lomo.advise import command

    quieten()
    return command.run(options, progress=not QUIET)


def _predictions(options: argparse.Namespace) -> None:
    from lomo.plan import read_plan

    plan = read_plan(options.results)
    out = options.results / "predictions"
    if options.modelling:
        from lomo.memory import june_2023

        june_2023.use(options.modelling)
        out = options.results / "predictions-2023-06"
    settle()
    from lomo.made import note, page
    from lomo.memory.study import predict_study
    from lomo.standing import predicting_code

    predict_study(plan, out, _say, num_processes=options.processes)
    note(page(options.results, out.name), code=predicting_code(plan))


def _warm(options: argparse.Namespace) -> None:
    from lomo.warm import serve

    settle(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve(options.socket, main)


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
        _say(_one_line(record))


def _say(line: str) -> None:
    print(f"{CLEAR if os.environ.get(SILENT) else ''}{line}", flush=True)


def _say_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
