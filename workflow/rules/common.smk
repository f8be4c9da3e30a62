"""The study's plan, from its config: the runs that Snakemake makes jobs of, and their inputs."""

import functools
import gc
import hashlib
import inspect
import os
import sys
import tempfile
import time
from pathlib import Path

from snakemake.common import overwrite_function_params

from lomo.pipeline import warm
from lomo.study import native_dtype
from lomo.study.config import as_typed
from lomo.forecast import command as plan_command
from lomo.system.command import refuse
from lomo.system.interrupts import INTERRUPTED, end_once
from lomo.pipeline.place import (
    check_place,
    check_products,
    check_temporary_files,
    full_disk,
    settle_times,
)
from lomo.pipeline.snakefile import (
    Progress,
    check_given_config,
    failed_logs,
    settle_jobs,
    settle_place,
)
from lomo.errors import UserError
from lomo.forecast.estimates import UNKNOWN, forget_unlaunched, resources_of
from lomo.study.inputs import data_folder, gpus_a_run, instruct_file, model_files, task_files
from lomo.study.suites.plan import BASE, MINIATURE_FILES, suite_files
from lomo.system.files import cannot_use, hold
from lomo.system.shortage import check_limits, shortage
from lomo.study.plan import plan_from_config
from lomo.model.registry import with_random_weights
from lomo.record.provenance import fingerprint, fingerprint_of

# The folder of this workflow's Snakefile: another one's may use this as a module.
CHECKOUT = Path(str(workflow.current_basedir)).parents[1]
# `is_module` of it says so of the outermost workflow, too.
IS_MODULE = workflow.modifier.parent_modifier is not None
# Named as it is seen from the working folder, where results/ and resources/ are made.
FILES = workflow.configfiles
SOURCE = os.path.relpath(FILES[-1]) if FILES else "the module's config"
settle_place(CHECKOUT)
try:
    check_given_config(sys.argv[1:])
    PLAN = plan_from_config(as_typed(config, workflow.config_settings.config_args), source=SOURCE)
    if workflow.is_main_process:
        check_limits()
        check_place(PLAN.study.study, writes=not workflow.output_settings.dryrun)
        if not workflow.output_settings.dryrun:
            check_temporary_files()
            if told := settle_times(PLAN.study.study):
                print(told, file=sys.stderr)
except UserError as error:
    sys.exit(refuse(error))

settle_jobs(PLAN.study.wandb, launch_anyway=PLAN.study.launch_anyway)
STUDY = PLAN.study.study
# No wildcard: Snakemake asks of each rule whose output begins as a file does, up to the first
# wildcard, whether it makes that file, of each of ten thousand.
RESULTS = f"results/{STUDY}"
RUN_IDS = list(PLAN.runs)
gc.freeze()  # what is imported stays
if workflow.is_main_process and not IS_MODULE:
    # Until the graph of jobs stands, and `onstart` comes, nothing of it is garbage: to look through
    # it again and again is a tenth of a start.
    gc.disable()
STARTED_AT = time.time()
PROGRESS = None  # of runs, where some are to be done
# Nobody has it as input. Snakemake does not look at what has changed of a job behind one that it
# runs again, so that an edited optimizer would repeat its runs a call too late.
ESTIMATES = f"{RESULTS}/estimates.json"
GPUS_A_RUN = gpus_a_run(PLAN.study)


if PLAN.study.launch_anyway and workflow.is_main_process and not workflow.output_settings.dryrun:
    forget_unlaunched([Path(RESULTS, "runs", run) for run in RUN_IDS])


onstart:
    # A local name would let go of the lock where this block ends.
    global STUDY_LOCK, WARM, PROGRESS
    gc.freeze()
    gc.enable()
    end_once()
    planning = None
    try:
        # Snakemake's own lock outlives a kill (`nolock` in profiles/default); this one does not.
        STUDY_LOCK = hold(Path(RESULTS, ".lock"))
        native_dtype.keep(PLAN.study)
        jobs = list(workflow.dag.needrun_jobs())
        check_products(str(file) for job in jobs for file in job.output)
        launched = {job.rule.name for job in jobs}
        runs = launched & {"train", "instruct", "measure"}
        if runs or (STANDING.unestimated and "tables" in launched):
            planning = plan_command.start(
                PLAN, Path(ESTIMATES), workflow.cores if on_this_machine() else 1
            )
        if runs or "suite" in launched:
            PROGRESS = Progress(Path(RESULTS), PLAN)
        if launched & set(warm.HANDED_OVER) and on_this_machine() and not GPUS_A_RUN:
            WARM = warm.start(Path(RESULTS, ".warm"), PLAN.study.num_threads)
        suites = f", {len(SUITE_IDS)} scores of suites" if SUITE_IDS else ""
        print(f"study {STUDY}: {PLAN.study.title} ({len(RUN_IDS)} runs{suites})", flush=True)
        if planning is not None:
            planning.finish()  # no run starts before; its line is printed
        if PROGRESS is not None:
            PROGRESS.start()
    except UserError as error:
        sys.exit(refuse(error))
    except OSError as error:
        if told := shortage(error) or cannot_use(error):
            sys.exit(refuse(told))
        raise
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


onerror:
    if PROGRESS is not None:
        PROGRESS.stop()
    # `quiet: rules` keeps Snakemake from showing them, also where it is told to show failed logs.
    logs = [Path(file) for job in workflow.dag.needrun_jobs() for file in job.log]
    print(failed_logs(logs, since=STARTED_AT), file=sys.stderr, flush=True)
    if told := full_disk(STUDY):
        refuse(told)


onsuccess:
    if PROGRESS is not None:
        PROGRESS.stop()
    # Another target than `all` may have been asked for, beside a report that already stands.
    if any(job.rule.name == "report" for job in workflow.dag.jobs):
        page = f"open results/{STUDY}/report/index.html"
        if is_estimated(Path(ESTIMATES), PLAN):
            print(f"study {STUDY} is complete: {page}")
        else:
            print(f"study {STUDY} lacks what was predicted ({ESTIMATES}), start again: {page}")


def known(function):
    """The same function, with its parameters at hand: Snakemake asks for them anew of each job."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


def beside_snakefile(name):
    """A file of the checkout, as it is seen from the working folder."""
    return os.path.relpath(CHECKOUT / name)


def run_of(wildcards):
    """The run of a job; one that saves its model is named by what is behind its kind."""
    named = wildcards.run if hasattr(wildcards, "run") else f"instruct/{wildcards.tuned}"
    return PLAN.runs[named]


@known
def spec_of(wildcards):
    """The run's spec, as its command line wants it."""
    return run_of(wildcards).model_dump_json()


@known
def code_of(wildcards):
    """The fingerprint of the sources that define the run's numbers."""
    return fingerprint_of(run_of(wildcards))


@known
def rounds_to_come(wildcards):
    """How many rounds follow that of a run of the `peers` section; 0 for another run."""
    run = PLAN.runs[wildcards.run]
    return PLAN.study.peers.rounds - run.round if hasattr(run, "round") else 0


@known
def model_of(wildcards):
    """The files of the run's model."""
    hold_settings()
    make_again_what_does_not_stand()
    run = run_of(wildcards)
    return model_files(PLAN.models[run.model], STUDY, getattr(run, "seed", None))


@known
def data_of(wildcards):
    """The data files of the run's task."""
    return data_of_task(PLAN.runs[wildcards.run].task)


@functools.cache
def data_of_task(task):
    """The data files of a task."""
    folder = data_folder(PLAN.study)
    return [f"{folder}/{file}" for file in task_files(task, Path(folder))]


def suite_model_of(wildcards):
    """The files of the model that is scored."""
    hold_settings()
    make_again_what_does_not_stand()
    run = PLAN.suites[wildcards.run]
    if run.method != BASE:
        return [f"{run.model_path}/saved.json"]
    return model_files(PLAN.models[run.model], STUDY, run.seed)


def suite_data_of(wildcards):
    """The suite's own files; none where they come from the hub."""
    return suite_files(PLAN.suites[wildcards.run])


def labels_of(name):
    """Its number in the paper, what it shows and of what: how Snakemake's own report lists it."""
    words = name.removeprefix("paper_").replace("table", "").replace("fig", "")
    number, _, shows = words.partition("_")
    for over in ("steps", "tokens", "seconds"):
        shows = shows.replace(f"_{over}", f" over {over}")
    of_paper = {"1": "memory", "2": "throughput"}
    return {
        "number": number if number.isdigit() else "-",
        "shows": (shows or of_paper.get(number, number)).replace("_", " "),
        "of": "the paper's size" if name.startswith("paper_") else "this study",
    }
