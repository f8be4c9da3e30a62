"""The verdict on every printed number: Tables 1 to 4, Figures 2 and 3, the headline claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..paper.printed import printed
from ..records.collected import Collected
from .accuracy import hyperparameter_verdict, lora_rank_verdict, superglue_verdict
from .claims import claim_verdicts
from .costs import memory_verdict, share_verdict, throughput_verdict
from .predicted import predicted_instead
from .verdict import Verdict

# File of analysis/paper -> what judges one of its values.
JUDGES: dict[str, Callable[[Collected, Any], Verdict]] = {
    "table1_memory": memory_verdict,
    "table2_throughput": throughput_verdict,
    "table3_superglue": superglue_verdict,
    "table4_hyperparameters": hyperparameter_verdict,
    "figure2_shares": share_verdict,
    "figure3_lora_rank": lora_rank_verdict,
}


def number_verdicts(collected: Collected) -> list[Verdict]:
    """A verdict for every value in analysis/paper, in the paper's order.

    Of memory that no run of the study stands for, the verdict is that of the prediction.
    """
    verdicts = [
        predicted_instead(name, cell, judge_one(collected, cell))
        for name, judge_one in JUDGES.items()
        for cell in printed(name).itertuples()
    ]
    return [*verdicts, *claim_verdicts(collected, verdicts)]
