"""`snakemake plan`: what each run will take, before one is launched; jobs ask for that much."""


rule plan:
    """What each run will take, told before one is launched."""
    input:
        f"{RESULTS}/plan.json",
    # No output: it is told whenever it is asked for. What it has predicted is kept.
    log:
        f"{RESULTS}/logs/estimate.log",
    conda:
        "../../environment.yml"
    threads: 2
    params:
        out=ESTIMATES,
    shell:
        "python -m lomo plan {input:q} --out {params.out:q} --processes {threads} 2> {log:q}"
