"""Commands of the rules: what a study needs before its runs, and what is made beside them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from lomo.errors import UserError
from lomo.system.command import QUIET, Command, json_argument, say
from lomo.system.process import settle


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
    from lomo.system.lock import exclusive

    with exclusive(options.out.with_name(f".{options.out.name}.lock")) as waited:
        if not (waited and (options.out / "model.safetensors").is_file()):
            loss = make_base_model(entry, options.text, options.out, progress=not QUIET)
            spec = entry.model_dump(mode="json")
            note_folder(options.out, spec=spec, code=fingerprint("pretrain"))
            say(f"pretrained {entry.name}  loss {loss:.3f}")


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
    parser.add_argument("what", choices=["model", "superglue", "modelling"])
    parser.add_argument("--spec", help="the model's registry entry as JSON")
    parser.add_argument("--requirements", type=Path, help="file with the modelling code's packages")
    parser.add_argument("--out", type=Path, required=True, help="folder for it")


def _fetch(options: argparse.Namespace) -> None:
    from lomo.model import fetch
    from lomo.model.registry import ModelEntry
    from lomo.system.strict import parse

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
    entry = parse(ModelEntry, json_argument(options.spec, "--spec"), where="--spec")
    fetch.model(entry, options.out)


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
    from lomo.record.made import note, page, sources_of
    from lomo.record.wandb_runs import publish
    from lomo.study.plan import read_plan

    plan = read_plan(options.results)
    # What is not believed is told to nobody.
    read_believed(options.results, plan.runs, keep=lambda record, scored: None)
    publish(options.results, list(plan.runs))
    note(page(options.results, "wandb"), **sources_of("wandb", options.results, plan))


COMMANDS = {
    "data": Command(_data_options, _data),
    "pretrain": Command(_pretrain_options, _pretrain),
    "architecture": Command(_architecture_options, _architecture),
    "fetch": Command(_fetch_options, _fetch),
    "predictions": Command(_predictions_options, _predictions),
    "wandb": Command(_wandb_options, _wandb),
}
