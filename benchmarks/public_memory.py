"""Predictions beside what people measured of memory and published, and beside what they asked.

    python benchmarks/public_memory.py --out results/published/public-memory

Reads benchmarks/public_memory.yaml. Writes rows.csv and questions.csv (bytes) and prints both as
the tables of docs/prediction.md. No weights, no GPU, no network; about two minutes.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from transformers import AutoConfig

from lomo.memory.measured.ledger import Ledger
from lomo.memory.predicted.predict import predict
from lomo.methods import describe
from lomo.model.architecture import Architecture
from lomo.specs import MeasureSpec
from lomo.study.machine import GIB, RESERVE_GIB

ASKED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
VERDICTS = {True: "yes", False: "**no**"}


def spec_of(step: dict[str, Any]) -> MeasureSpec:
    """The step of a row, as a run would be told it."""
    method = step["method"]
    hyper = describe(method).hyper.model_validate(step.get("hyper", {}))
    return MeasureSpec(
        study="public",
        run_id="public",
        model=step["model"],
        model_path=step["model"],
        method=method,
        hyper=hyper.model_dump(),
        device="auto",
        dtype=step.get("dtype", "bfloat16"),
        attention=step.get("attention", "sdpa"),
        activation_checkpointing=step["checkpointing"],
        head_loss=step.get("head_loss", "model"),
        batch_size=step["batch_size"],
        sequence_length=step["sequence_length"],
        engine=step.get("engine", "single"),
        num_devices=step.get("num_devices", 1),
        max_grad_norm=None,
        timeout_s=None,
        num_threads=1,
        num_warmup_steps=1,
        num_timed_steps=2,
    )


def ledger_of(step: dict[str, Any]) -> Ledger:
    """The predicted ledger of a device."""
    return _ledger(spec_of(step).model_dump_json())


@cache
def _ledger(spec_json: str) -> Ledger:
    spec = MeasureSpec.model_validate_json(spec_json)
    config = AutoConfig.for_model(**ASKED["models"][spec.model])
    return predict(Architecture(spec.model, config), spec).ledger


def predicted_bytes(row: dict[str, Any]) -> int:
    """What a row's counter should have seen, by the prediction."""
    ledger = ledger_of(row["step"])
    if row.get("of") == "rest":
        # All weights are trained there: gradients of as many bytes.
        return 2 * ledger.at_start["parameters_bytes"] + ledger.at_start["optimizer_state_bytes"]
    if "less" in row:
        (other,) = (other for other in ASKED["rows"] if other["id"] == row["less"])
        return ledger.peak_bytes - predicted_bytes(other)
    return ledger.peak_bytes


def holds(row: dict[str, Any], predicted: int) -> bool | None:
    """Whether the prediction is where it must be; None where no bound can be asked for."""
    measured = row["measured"]
    if row["compare"] == "within":
        return bool(abs(predicted / measured - 1) <= row["tolerance"])
    return predicted < measured if row["compare"] == "below" else None


def answered(question: dict[str, Any]) -> tuple[int, bool]:
    """The predicted peak of a question's step, and whether its card holds that."""
    peak = ledger_of(question["step"]).peak_bytes
    return peak, peak <= (question["gib"] - RESERVE_GIB) * GIB


def rows() -> pd.DataFrame:
    """Every row: measured and predicted bytes, and whether the prediction holds."""
    made = []
    for row in ASKED["rows"]:
        predicted = predicted_bytes(row)
        made.append(
            {
                "row": row["id"],
                "step": _words(row["step"]),
                "counter": row["counter"],
                "measured_bytes": row["measured"],
                "predicted_bytes": predicted,
                "difference": predicted / row["measured"] - 1,
                "bound": _bound(row),
                "holds": holds(row, predicted),
                "source": ASKED["sources"][row["source"]],
                "note": row.get("note"),
            }
        )
    return pd.DataFrame(made).astype({"holds": "boolean"})


def questions() -> pd.DataFrame:
    """Every question: the card, the predicted bytes, what they mean, and what happened."""
    made = []
    for question in ASKED["questions"]:
        peak, fits = answered(question)
        made.append(
            {
                "asked": question["asked"],
                "step": _words(question["step"]),
                "card_gib": question["gib"],
                "predicted_bytes": peak,
                "fits": fits,
                "holds": fits == question["fits"],
                "note": question.get("note"),
            }
        )
    return pd.DataFrame(made)


def _bound(row: dict[str, Any]) -> str:
    if row["compare"] == "within":
        return f"within {100 * row['tolerance']:g} %"
    return "below" if row["compare"] == "below" else "none"


def _words(step: dict[str, Any]) -> str:
    spec = spec_of(step)
    ranks = "" if spec.engine == "single" else f", {spec.engine} x {spec.num_devices}"
    parts = [
        f"{spec.model} {spec.method} {spec.batch_size} x {spec.sequence_length}{ranks}",
        "" if spec.dtype == "bfloat16" else spec.dtype,
        "" if spec.attention == "sdpa" else spec.attention,
        "checkpointed" if spec.activation_checkpointing else "",
        "fused head" if spec.head_loss == "fused" else "",
    ]
    return ", ".join(part for part in parts if part)


def _markdown(table: pd.DataFrame) -> str:
    shown = table.drop(columns=["source"], errors="ignore").copy()
    for column in ("measured_bytes", "predicted_bytes"):
        if column in shown:
            shown[column] = [f"{value / 1e9:.2f}" for value in shown[column]]
    if "difference" in shown:
        shown["difference"] = [f"{value:+.1%}".replace("%", " %") for value in shown["difference"]]
    for column in ("holds", "fits"):
        if column in shown:
            shown[column] = ["" if pd.isna(v) else VERDICTS[bool(v)] for v in shown[column]]
    names = {
        "measured_bytes": "measured, GB",
        "predicted_bytes": "predicted, GB",
        "card_gib": "GiB",
    }
    lines = shown.fillna("").rename(columns=names).astype(str)
    head = [list(lines.columns), ["---"] * len(lines.columns)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *lines.to_numpy().tolist()])


def main() -> None:
    """Predict all, write two csv files, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the csv files")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("rows", rows()), ("questions", questions())):
        table.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
        print(_markdown(table), end="\n\n")


if __name__ == "__main__":
    main()
