"""`snakemake fits`: what fits which card, predicted; no run, weights, GPU or network."""

from lomo.model.registry import registry_path
from lomo.memory.asked.fits import fingerprint_of_fits, shown_models, trained_methods

CARDS_GIB = [16, 24, 40, 48, 80, 141]
MOST_CARDS = 8


rule what_fits:
    """The largest batch of each model, method and card, predicted: no card is needed."""
    input:
        str(registry_path()),
    output:
        "results/fits/what_fits.json",
    log:
        "results/fits/logs/what_fits.log",
    conda:
        "../../environment.yml"
    threads: 4
    params:
        cards=CARDS_GIB,
        most=MOST_CARDS,
        models=shown_models(),
        code=fingerprint_of_fits(trained_methods()),
    # Exit code 3: nothing fits at all, which is an answer too.
    shell:
        "python -m lomo fits --gpu {params.cards} --gpus {params.most} --models {params.models}"
        " --processes {threads} --out {output:q} > {log:q} 2>&1 || [ $? -eq 3 ]"


rule fits:
    """What fits on which card, as table and figure."""
    input:
        "results/fits/what_fits.json",
    output:
        expand(
            "results/fits/tables/what_fits.{format}",
            format=["csv", "md", "tex", "html"],
        ),
        expand(
            "results/fits/figures/what_fits.{format}",
            format=["svg", "pdf", "png"],
        ),
    log:
        "results/fits/logs/fits.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        code=fingerprint("analysis"),
    shell:
        "python -m lomo_analysis fits --results results/fits 2> {log:q}"
