"""`snakemake plan`: what each run will take, before one is launched; jobs ask for that much."""


rule estimate:
    input:
        "results/{study}/plan.json",
    output:
        "results/{study}/estimates.json",
    log:
        "results/{study}/logs/estimate.log",
    # Every run waits for it, and a person wants to read its line first.
    priority: 20
    conda:
        "../../environment.yml"
    threads: 2
    params:
        code=[
            fingerprint("estimate", method)
            for method in sorted({run.method for run in PLAN.runs.values()})
        ],
    shell:
        "python -m lomo plan {input:q} --out {output:q} --processes {threads} --line 2> {log:q}"


rule show_plan:
    input:
        runs="results/{study}/plan.json",
        estimates="results/{study}/estimates.json",
    output:
        "results/{study}/plan.txt",
    log:
        "results/{study}/logs/show_plan.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m lomo plan {input.runs:q} --estimates {input.estimates:q} 2> {log:q} | tee {output:q}"


rule plan:
    input:
        expand(rules.show_plan.output, study=STUDY),
