"""What numbers depend on, held whatever profile or option Snakemake was started with."""

from functools import cache

from snakemake.settings.types import RerunTrigger

from lomo.study.machine import host_bytes

# A measured run takes all shares of the machine, whatever --set-threads and --max-threads say.
SHARES = 1000


def hold_settings():
    """An edited study or source is noticed by `params`, which another profile may leave out.

    To be called by an input function: settings, and where jobs are to run, come after the rules
    have been read.
    """
    held = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT}
    workflow.dag_settings.rerun_triggers = held | set(workflow.rerun_triggers)
    if on_this_machine():
        hold_this_machine()
        if len(workflow.dag_settings.target_jobs) > 1 and not workflow.is_main_process:
            warm_for_a_group()
    elif getattr(workflow.executor_settings, "jobname_prefix", None) == "":
        # Slurm's: `squeue` tells whose a job is.
        workflow.executor_settings.jobname_prefix = STUDY[:50]


def on_this_machine():
    """Whether jobs run where this process does; a dry run tells what the true one would do."""
    if workflow.dryrun:
        return workflow.resource_settings.nodes is None
    return workflow.local_exec


@cache
def hold_this_machine():
    """One run on its GPUs at a time, a measured run alone, and no more memory than there is.

    Jobs do not choose a GPU: two at once would be on the same one. On a cluster each has its own.
    """
    gpus = workflow.global_resources.get("gpu")
    given = None if gpus is None else gpus.value
    if workflow.is_main_process and given not in (None, 1):
        print(
            f"gpu={given} is held at 1: runs do not choose a GPU, two would share one",
            file=sys.stderr,
        )
    workflow.register_resource("gpu", 1)
    # Of a group of runs that is one job of a cluster, each has the job's allocation after the other.
    workflow.register_resource("machine", SHARES if workflow.is_main_process else 1)
    if "mem_mb" not in workflow.global_resources:
        # Jobs say what they take of the host; on this one there is no more than that.
        workflow.register_resource("mem_mb", host_bytes() // 10**6)


@cache
def warm_for_a_group():
    """Starts what has done all imports, for a group of runs that is one job of a cluster."""
    if not GPUS_A_RUN:
        folder = tempfile.TemporaryDirectory(prefix="lomo-")
        process = warm.start(Path(folder.name, "warm"), PLAN.study.num_threads)
        return folder, process  # both end with this process
