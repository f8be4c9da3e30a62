"""The plan, and from records alone to tables, figures, verdicts and the report."""

SEARCHED = PLAN.study.superglue and PLAN.study.superglue.search
TABLES = (
    "paper_table1",
    "paper_table2",
    "table1_memory",
    "table2_throughput",
    "table3_superglue",
    "table4_hyperparameters",
    "table_prediction",
    "verdicts",
    *(["table_peers"] if PLAN.study.peers else []),
    *(["table_ablation"] if PLAN.study.ablation else []),
    *(["table_tuning"] if SEARCHED else []),
    *(["table_rounding"] if PLAN.study.rounding else []),
    *(["table_instruct"] if PLAN.study.instruct else []),
    *(["table_suites"] if PLAN.suites else []),
)
FIGURES = (
    "fig1_gradients",
    "fig2_shares",
    "fig3_lora_rank",
    "fig4_loss",
    "fig5_accuracy",
    "fig6_tradeoff",
    "overview",
    *(["fig_peers"] if PLAN.study.peers else []),
    *(["fig_ablation"] if PLAN.study.ablation else []),
    *(["fig_tuning"] if SEARCHED else []),
    *(["fig_rounding"] if PLAN.study.rounding else []),
    *(["fig_instruct"] if PLAN.study.instruct else []),
    *(
        expand(
            "fig_{quantity}_{over}",
            quantity=["loss", "accuracy", "grad_norm"],
            over=["steps", "tokens", "seconds"],
        )
        if PLAN.study.superglue
        else []
    ),
)


rule list_runs:
    """The plan: each run with all that it is told."""
    input:
        nothing,
    output:
        f"{RESULTS}/plan.json",
    log:
        f"{RESULTS}/logs/list_runs.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # Functions: of a plain text Snakemake takes {x} for a wildcard.
        study=lambda wildcards: PLAN.study.model_dump_json(exclude_defaults=True),
        source=lambda wildcards: SOURCE,
        digest=hashlib.sha256(PLAN.model_dump_json().encode()).hexdigest(),
    shell:
        "python -m lomo runs {params.study:q} --source {params.source:q} --out {output:q} > {log:q}"


rule collect:
    """All records as one table, once each is believed."""
    input:
        plan=f"{RESULTS}/plan.json",
        records=expand(f"{RESULTS}/runs/{{run}}/record.json", run=RUN_IDS),
        suites=expand(f"{RESULTS}/runs/{{run}}/record.json", run=SUITE_IDS),
    output:
        report(
            f"{RESULTS}/tables/records.csv",
            caption="../report/records.rst",
            category="Records",
            labels={"what": "all runs"},
        ),
        f"{RESULTS}/tables/records.parquet",
        f"{RESULTS}/tables/outcomes.parquet",
    log:
        f"{RESULTS}/logs/collect.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis collect --results results/{params.study} 2> {log:q}"


rule tables:
    """The tables and the verdicts, from records alone."""
    input:
        f"{RESULTS}/tables/records.csv",
        # An ablation's table has the predictions beside the records.
        [f"{RESULTS}/predictions/index.json"] if PLAN.study.ablation else [],
    output:
        expand(
            f"{RESULTS}/tables/{{table}}.{{format}}",
            table=TABLES,
            format=["csv", "md", "tex"],
        ),
        [
            report(
                f"{RESULTS}/tables/{table}.html",
                caption="../report/table.rst",
                category="Tables",
                labels=labels_of(table),
            )
            for table in TABLES
        ],
    log:
        f"{RESULTS}/logs/tables.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis table --results results/{params.study} 2> {log:q}"


rule figures:
    """The figures, from records alone."""
    input:
        f"{RESULTS}/tables/records.csv",
    output:
        expand(
            f"{RESULTS}/figures/{{figure}}.{{format}}",
            figure=FIGURES,
            format=["pdf", "png"],
        ),
        [
            report(
                f"{RESULTS}/figures/{figure}.svg",
                caption="../report/figure.rst",
                category="Figures",
                labels=labels_of(figure),
            )
            for figure in FIGURES
        ],
    log:
        f"{RESULTS}/logs/figures.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis figure --results results/{params.study} 2> {log:q}"


rule report:
    """One page with all tables, figures and verdicts, and the summary of one page."""
    input:
        rules.tables.output,
        rules.figures.output,
    output:
        report(
            f"{RESULTS}/report/index.html",
            caption="../report/page.rst",
            category="Pages",
            labels={"what": "report", "shows": "all tables, figures and verdicts"},
        ),
        report(
            f"{RESULTS}/report/summary.html",
            caption="../report/page.rst",
            category="Pages",
            labels={"what": "summary", "shows": "the study on one page"},
        ),
        multiext(f"{RESULTS}/report/summary", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis report --results results/{params.study} 2> {log:q}"


rule wandb:
    """Each run as a W&B run; offline, nothing is sent."""
    input:
        plan=f"{RESULTS}/plan.json",
        records=expand(f"{RESULTS}/runs/{{run}}/record.json", run=RUN_IDS + SUITE_IDS),
    output:
        f"{RESULTS}/wandb/published.json",
    log:
        f"{RESULTS}/logs/wandb.log",
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
    shell:
        "python -m lomo wandb --results results/{params.study} 2> {log:q}"


rule publish:
    """Plan, records and what bears them out, copied to be committed."""
    input:
        plan=f"{RESULTS}/plan.json",
        records=expand(f"{RESULTS}/runs/{{run}}/record.json", run=RUN_IDS + SUITE_IDS),
    # No output: Snakemake would remove what stands there, and what is published never changes.
    log:
        f"{RESULTS}/logs/publish.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
    shell:
        "python -m lomo_analysis publish --results results/{params.study}"
        " --to results/published/{params.study} 2> {log:q}"
