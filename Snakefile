"""The front door: `snakemake --cores all` regenerates every table and figure of one study.

The study is config/tiny.yaml, or the one given with --configfile. What happens inside one run is
in lomo/, what is made of the records is in analysis/; rules only call their command lines.
"""

from snakemake.utils import min_version

min_version("9.27")


if not workflow.configfiles:

    configfile: f"{workflow.current_basedir}/config/tiny.yaml"


# The first page of Snakemake's own report.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/held.smk"
include: "workflow/rules/standing.smk"
include: "workflow/rules/asked.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/suites.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/predictions.smk"
include: "workflow/rules/fits.smk"


rule all:
    """All that the study asks for: records, tables, figures and the report."""
    default_target: True
    input:
        # Named here, so that a record that was deleted is made again.
        rules.list_runs.output,
        expand(f"{RESULTS}/runs/{{run}}/record.json", run=RUN_IDS),
        expand(f"{RESULTS}/runs/{{run}}/record.json", run=SUITE_IDS),
        rules.tables.output,
        rules.figures.output,
        rules.report.output,
        rules.wandb.output if PLAN.study.wandb == "offline" else [],
