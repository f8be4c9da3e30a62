"""`snakemake predict`: Tables 1 and 2, and an ablation, without a run, weights, a GPU or the network.

`snakemake predict_june_2023` makes what results/published/modelling-2023-06 holds anew, with the
transformers of then: it fetches that first.
"""

PREDICTING = predicting_code(PLAN)
# The paper's own study keeps the published predictions, which each report shows, up to date.
IN_CHECKOUT = os.path.relpath(CHECKOUT) == "."
PUBLISHES = "--publish results/published/paper-predictions"


rule predictions:
    """The memory of each run of the plan, predicted and not launched."""
    input:
        f"{RESULTS}/plan.json",
    output:
        f"{RESULTS}/predictions/index.json",
    log:
        f"{RESULTS}/logs/predictions.log",
    conda:
        "../../environment.yml"
    threads: 4
    params:
        study=STUDY,
        code=PREDICTING,
    shell:
        "python -m lomo predictions --results results/{params.study} --processes {threads} > {log:q} 2>&1"


rule predicted_tables:
    """Tables 1 and 2 from predictions alone."""
    input:
        f"{RESULTS}/predictions/index.json",
        june_2023=beside_snakefile("results/published/modelling-2023-06/index.json"),
    output:
        expand(
            f"{RESULTS}/tables/predicted_{{table}}.{{format}}",
            table=["table1", "table2", *(["ablation"] if PLAN.study.ablation else [])],
            format=["csv", "md", "tex", "html"],
        ),
        expand(
            f"{RESULTS}/figures/predicted_ablation.{{format}}",
            format=["svg", "pdf", "png"] if PLAN.study.ablation else [],
        ),
    log:
        f"{RESULTS}/logs/predicted_tables.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        study=STUDY,
        june_2023=subpath(input.june_2023, parent=True),
        publish=PUBLISHES if STUDY == "paper" and IN_CHECKOUT else "",
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis predicted --results results/{params.study} --june-2023 {params.june_2023:q} {params.publish} 2> {log:q}"


rule predict:
    """The predictions of a study and their tables; nothing is run."""
    input:
        rules.predicted_tables.output,


rule predictions_june_2023:
    """The same predictions by the modelling code of June 2023."""
    input:
        f"{RESULTS}/plan.json",
        modelling=rules.fetch_modelling.output[0],
    output:
        f"{RESULTS}/predictions-2023-06/index.json",
    log:
        f"{RESULTS}/logs/predictions-2023-06.log",
    conda:
        "../../environment.yml"
    threads: 4
    params:
        study=STUDY,
        modelling=subpath(input.modelling, parent=True),
        code=PREDICTING,
    shell:
        "python -m lomo predictions --results results/{params.study} --modelling {params.modelling:q} --processes {threads} > {log:q} 2>&1"


rule predict_june_2023:
    """What June 2023's modelling code predicts; nothing is run."""
    input:
        rules.predictions_june_2023.output,
