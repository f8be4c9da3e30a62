"""What numbers depend on, held whatever profile or option Snakemake was started with."""

from snakemake.settings.types import RerunTrigger

from lomo.study.machine import host_bytes

# A measured run takes all shares of the machine, whatever --set-threads and --max-threads say.
SHARES = 1000


def hold_triggers():
    """An edited study or source is noticed by `params`, which another profile may leave out.

    To be called by an input function: these settings come after the rules have been read.
    """
    held = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT}
    workflow.dag_settings.rerun_triggers = held | set(workflow.rerun_triggers)


if workflow.local_exec:
    # Jobs do not choose a GPU: two at once would be on the same one. `--resources` on the command
    # line or in another profile takes the place of all resources in profiles/default.
    gpus = workflow.global_resources.get("gpu")
    if workflow.is_main_process and gpus is not None and gpus.value != 1:
        print(
            f"gpu={gpus.value} is held at 1: runs do not choose a GPU, two would share one",
            file=sys.stderr,
        )
    workflow.register_resource("gpu", 1)
    workflow.register_resource("machine", SHARES)
    if "mem_mb" not in workflow.global_resources:
        # Jobs say what they take of the host; on this one there is no more than that.
        workflow.register_resource("mem_mb", host_bytes() // 10**6)
