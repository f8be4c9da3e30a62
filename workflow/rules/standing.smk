"""What stands and is not of the present plan or code is made again, also where .snakemake is lost."""

from lomo.standing import Standing, look

STANDING = Standing()
if workflow.is_main_process:
    STANDING = look(Path(f"results/{STUDY}"), PLAN)
    for reason in STANDING.reasons:
        print(reason, file=sys.stderr)
    # By name: a rule with wildcards that is forced is no target for that.
    forced = STANDING.rules | set(workflow.dag_settings.forcerun)
    workflow.dag_settings.forcerun = forced


def unless_it_stands(path):
    """Has the job of an output done again where that is of another plan or code.

    To be called by an input function: there is no graph of jobs before.
    """
    if path in STANDING.files:
        workflow.dag.forcefiles.add(path)
