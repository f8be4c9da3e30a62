"""What fits (results/fits/what_fits.json), as its table and its figure read it. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.memory.asked.cells import Cell as Fit

from ..text.names import method_order

NAME, FILE = "what_fits", "what_fits.json"


@dataclass(frozen=True)
class WhatFits:
    """All cells of a file, and the setting that they share."""

    cells: dict[tuple[str, str, int, float], Fit]
    models: Sequence[str]
    methods: Sequence[str]
    sequence_length: int
    reserve_gib: float
    facts: dict[str, Any]

    @property
    def counts(self) -> list[int]:
        """The numbers of cards, ascending."""
        return sorted({fit.num_gpus for fit in self.cells.values()})

    @property
    def gpus_gib(self) -> list[float]:
        """The sizes of cards, ascending."""
        return sorted({fit.gpu_gib for fit in self.cells.values()})

    def fewest_cards(self, model: str, method: str, gpu_gib: float) -> int | None:
        """The least number of cards of a size that hold one sequence each, or None."""
        found = (self.cells[model, method, count, gpu_gib] for count in self.counts)
        return next((fit.num_gpus for fit in found if fit.batch_size), None)


def read_fits(results: Path) -> WhatFits:
    """The file in a folder. Raises UserError where it is missing, cut or of another make."""
    path = results / FILE
    fix = f"make it again: snakemake --cores all fits, or python -m lomo fits ... --out {path}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        fits = [Fit(**cell) for cell in data.pop("cells")]
        cells = {(fit.model, fit.method, fit.num_gpus, fit.gpu_gib): fit for fit in fits}
        found = WhatFits(
            cells=cells,
            models=data["models"],
            methods=sorted(data["methods"], key=method_order),
            sequence_length=data["sequence_length"],
            reserve_gib=data["reserve_gib"],
            facts=data,
        )
        axes = (found.models, found.methods, found.counts, found.gpus_gib)
        if not fits or len(cells) != len(axes[0]) * len(axes[1]) * len(axes[2]) * len(axes[3]):
            raise ValueError("some of its cells are missing")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), fix=fix) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError("does not hold what fits", where=str(path), fix=fix) from error
    return found
