"""What stands and is not of the present plan or code is made again, also where .snakemake is lost."""

from lomo.pipeline.standing import Standing, is_estimated, look, predicting_code

STANDING = Standing()
if workflow.is_main_process:
    # A module's start is the other workflow's: no estimates are made there.
    STANDING = look(Path(RESULTS), PLAN, estimated=not IS_MODULE)
    for reason in STANDING.reasons:
        print(reason, file=sys.stderr)


def make_again_what_does_not_stand():
    """Forces those jobs, where they are asked for at all.

    To be called by input functions: there is no graph of jobs before.
    """
    workflow.dag.forcefiles.update(STANDING.files)
    if STANDING.rules:
        by_name = {rule.name: rule for rule in workflow.rules}
        workflow.dag.forcerules.update(by_name[name] for name in STANDING.rules)


def nothing(wildcards):
    """No file: all that such a rule reads stands in the plan."""
    make_again_what_does_not_stand()
    return []


def text_of(wildcards):
    """The text that a base model is made from."""
    make_again_what_does_not_stand()
    return f"{RESULTS}/data/text.txt"
