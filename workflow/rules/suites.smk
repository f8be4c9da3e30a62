"""Benchmark suites: one job a model folder and suite, one record a job."""

SUITE_IDS = list(PLAN.suites)


rule generate_suites:
    """The miniature suite, in MMLU's layout."""
    output:
        expand(f"{RESULTS}/data/suites/{{file}}", file=MINIATURE_FILES),
    log:
        f"{RESULTS}/logs/generate_suites.log",
    conda:
        "../../environment.yml"
    params:
        seed=PLAN.study.generated.seed,
        out=subpath(output[0], ancestor=2),
        code=fingerprint("generate_suites"),
    shell:
        "python -m lomo suite-data --seed {params.seed} --out {params.out:q} 2> {log:q}"


rule suite:
    """A model folder scored on one suite by lm-eval (the hub's suites use the network)."""
    input:
        model=suite_model_of,
        data=suite_data_of,
    output:
        f"{RESULTS}/runs/{{run}}/record.json",
    log:
        f"{RESULTS}/logs/{{run}}.log",
    wildcard_constraints:
        run="suite/.+",
    conda:
        "../../environment.yml"
    threads: PLAN.study.num_threads
    resources:
        **UNKNOWN,
        machine=1,
        gpu=GPUS_A_RUN or None,
    params:
        spec=lambda wildcards: PLAN.suites[wildcards.run].model_dump_json(),
        out=subpath(output[0], parent=True),
        code=lambda wildcards: fingerprint_of(PLAN.suites[wildcards.run]),
    shell:
        "python -m lomo suite --spec {params.spec:q} --out {params.out:q} 2> {log:q}"
