"""The figures of a study: which there are, and the one call that writes one in every format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ..instruct.figure import figure_instruct
from ..records.collected import Collected
from ..rounding.figure import figure_rounding
from ..text.style import save, style
from .ablation import figure_ablation
from .curves import OVER, QUANTITIES, figure_accuracy, figure_loss, figure_training
from .curves import SECTION as TRAINED
from .gradients import figure_gradients
from .lora_rank import figure_lora_rank
from .overview import figure_overview
from .peers import figure_peers
from .shares import figure_shares
from .tradeoff import figure_tradeoff
from .tuning import figure_tuning

# What `--which` takes -> file name, and the function that draws it.
FIGURES: dict[str, tuple[str, Callable[[Collected], Figure]]] = {
    "1": ("fig1_gradients", figure_gradients),
    "2": ("fig2_shares", figure_shares),
    "3": ("fig3_lora_rank", figure_lora_rank),
    "4": ("fig4_loss", figure_loss),
    "5": ("fig5_accuracy", figure_accuracy),
    "6": ("fig6_tradeoff", figure_tradeoff),
    "overview": ("overview", figure_overview),
}
# Figures of sections that few studies have: drawn only where the study has it.
SECTION_FIGURES: dict[str, tuple[str, Callable[[Collected], Figure]]] = {
    "peers": ("fig_peers", figure_peers),
    "ablation": ("fig_ablation", figure_ablation),
    "tuning": ("fig_tuning", figure_tuning),
    "rounding": ("fig_rounding", figure_rounding),
    "instruct": ("fig_instruct", figure_instruct),
}
# All trainings of a study, drawn where it has any.
TRAINING_FIGURES: dict[str, tuple[str, Callable[[Collected], Figure]]] = {
    f"{quantity}_{over}": (
        f"fig_{quantity}_{over}",
        partial(figure_training, quantity=quantity, over=over),
    )
    for quantity in QUANTITIES
    for over in OVER
}
ALL_FIGURES = {**SECTION_FIGURES, **FIGURES, **TRAINING_FIGURES}


def figures_of(collected: Collected) -> dict[str, tuple[str, Callable[[Collected], Figure]]]:
    """The figures of a study, those of its own sections first."""
    own = {name: make for name, make in SECTION_FIGURES.items() if name in collected.parts}
    trained = TRAINING_FIGURES if TRAINED in collected.plan.sections else {}
    return {**own, **FIGURES, **trained}


def make_figure(collected: Collected, which: str) -> list[Path]:
    """Writes one figure into the study's `figures` folder; the paths of its formats."""
    name, draw = ALL_FIGURES[which]
    with style():
        return save(draw(collected), collected.folder / "figures", name)
