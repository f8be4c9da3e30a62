"""`snakemake predict`: Tables 1 and 2, and an ablation, without a run, a model's weights, a GPU or the network."""


rule predictions:
    input:
        "results/{study}/plan.json",
    output:
        "results/{study}/predictions/index.json",
    log:
        "results/{study}/logs/predictions.log",
    conda:
        "../../environment.yml"
    threads: 4
    params:
        code=[
            fingerprint("predict", method)
            for method in sorted(
                {run.method for run in PLAN.runs.values() if run.kind == "measure"}
            )
        ],
    shell:
        "python -m lomo predictions --results results/{wildcards.study} --processes {threads} > {log:q} 2>&1"


rule predicted_tables:
    input:
        "results/{study}/predictions/index.json",
    output:
        expand(
            "results/{{study}}/tables/predicted_{table}.{format}",
            table=["table1", "table2", *(["ablation"] if PLAN.study.ablation else [])],
            format=["csv", "md", "tex", "html"],
        ),
        expand(
            "results/{{study}}/figures/predicted_ablation.{format}",
            format=["svg", "pdf", "png"] if PLAN.study.ablation else [],
        ),
    log:
        "results/{study}/logs/predicted_tables.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        code=fingerprint("analysis"),
    shell:
        "python -m analysis predicted --results results/{wildcards.study} 2> {log:q} 2>&1"


rule predict:
    input:
        expand(rules.predicted_tables.output, study=STUDY),
