"""One job a run, one record a job. A run that ends with oom or diverged is a job that succeeded."""


rule train:
    """One run that trains on a task and is scored, in one process: its record."""
    input:
        model=model_of,
        data=data_of,
    output:
        f"{RESULTS}/runs/{{run}}/record.json",
    log:
        f"{RESULTS}/logs/{{run}}.log",
    wildcard_constraints:
        run="train/.+",
    conda:
        "../../environment.yml"
    threads: threads_of
    resources:
        **OF_A_RUN,
        machine=1,
    params:
        spec=spec_of,
        out=subpath(output[0], parent=True),
        estimates=ESTIMATES,
        code=code_of,
    shell:
        "python -m lomo train --spec {params.spec:q} --out {params.out:q} --estimates {params.estimates:q}"
        " --nodes {resources.nodes}"
        " 2> {log:q}"


rule instruct:
    """One run that trains on instructions and is scored on held-out ones: its record, and its model."""
    input:
        model=model_of,
        data=instruct_file(PLAN.study.instruct) if PLAN.study.instruct else [],
    output:
        f"{RESULTS}/runs/instruct/{{tuned}}/record.json",
        # Beside the model, and alone where nothing was saved: the note that tells which.
        *(
            [f"{RESULTS}/tuned/{{tuned}}/saved.json"]
            if PLAN.study.instruct and PLAN.study.instruct.save
            else []
        ),
    log:
        f"{RESULTS}/logs/instruct/{{tuned}}.log",
    wildcard_constraints:
        tuned=".+",
    conda:
        "../../environment.yml"
    threads: threads_of
    resources:
        **OF_A_RUN,
        machine=1,
    params:
        spec=spec_of,
        out=subpath(output[0], parent=True),
        estimates=ESTIMATES,
        code=code_of,
    shell:
        "python -m lomo instruct --spec {params.spec:q} --out {params.out:q} --estimates {params.estimates:q}"
        " --nodes {resources.nodes}"
        " 2> {log:q}"


rule measure:
    """One run that measures memory and speed of a step, its device to itself: its record."""
    input:
        model=model_of,
    output:
        f"{RESULTS}/runs/{{run}}/record.json",
    log:
        f"{RESULTS}/logs/{{run}}.log",
    wildcard_constraints:
        run="measure/.+",
    # One round after the other, so that a drift of the machine meets all variants alike.
    priority: rounds_to_come
    conda:
        "../../environment.yml"
    # A measured run has the machine alone: all cores are taken, however many it uses; so of a node.
    threads: measured_threads
    resources:
        **OF_A_RUN,
        machine=SHARES,
        slurm_extra="--exclusive",
    params:
        spec=spec_of,
        out=subpath(output[0], parent=True),
        estimates=ESTIMATES,
        code=code_of,
    shell:
        "python -m lomo measure --spec {params.spec:q} --out {params.out:q} --estimates {params.estimates:q}"
        " --nodes {resources.nodes}"
        " 2> {log:q}"
