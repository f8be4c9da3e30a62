"""The tables of a study: which there are, and the one call that writes one in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..instruct.table import table_instruct
from ..records.collected import Collected
from ..rounding.table import table_rounding
from ..suites.table import table_suites
from ..tables.ablation import table_ablation
from ..tables.hyperparameters import table_hyperparameters, table_tuning
from ..tables.memory import table_memory
from ..tables.peers import table_peers
from ..tables.prediction import table_prediction
from ..tables.superglue import table_superglue
from ..tables.throughput import table_throughput
from ..text.grid import Table
from ..text.render import write_table
from ..verdicts.all import table_verdicts
from ..verdicts.at_paper_size import paper_memory, paper_throughput

# What `--which` takes -> the function that builds the table.
TABLES: dict[str, Callable[[Collected], Table]] = {
    "paper1": paper_memory,
    "paper2": paper_throughput,
    "1": table_memory,
    "2": table_throughput,
    "3": table_superglue,
    "4": table_hyperparameters,
    "prediction": table_prediction,
    "verdicts": table_verdicts,
}
# Tables of sections that few studies have: made only where the study has it.
SECTION_TABLES: dict[str, Callable[[Collected], Table]] = {
    "peers": table_peers,
    "ablation": table_ablation,
    "tuning": table_tuning,
    "rounding": table_rounding,
    "instruct": table_instruct,
    "suites": table_suites,
}


def tables_of(collected: Collected) -> dict[str, Callable[[Collected], Table]]:
    """The tables of a study, those of its own sections first."""
    own = {name: make for name, make in SECTION_TABLES.items() if name in collected.parts}
    return {**own, **TABLES}


def make_table(collected: Collected, which: str) -> list[Path]:
    """Writes one table into the study's `tables` folder; the paths of its formats."""
    return write_table({**SECTION_TABLES, **TABLES}[which](collected), collected.folder / "tables")
