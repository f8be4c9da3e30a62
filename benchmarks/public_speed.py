"""The estimate of `advise` beside speeds that others measured and published.

    python benchmarks/public_speed.py --out results/published/public-speed

Reads benchmarks/public_speed.yaml. Writes rows.csv and prints the table of docs/advise.md. No
weights, no GPU, no network; seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from transformers import AutoConfig

from lomo.advise.costs import Model, Speed, speed_of
from lomo.advise.rows import KINDS, Setting
from lomo.model.architecture import Architecture, count_parameters, read_architecture
from lomo.study.cards import card_of

ASKED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def estimated(row: dict[str, Any]) -> Speed:
    """The estimate of a row's step."""
    setting = Setting(
        row["tokens"],
        num_gpus=row.get("num_gpus", 1),
        attention=row.get("attention", "sdpa"),
        head_loss="model",
        checkpointing=row.get("checkpointing", True),
        max_grad_norm=row.get("max_grad_norm"),
    )
    model, card = _model(row["model"]), card_of(row["card"], where=row["id"])
    found = speed_of(KINDS[row["row"]], setting, card, model, row["batch_size"], row["tokens"])
    assert isinstance(found, Speed), found
    return found


def _model(name: str) -> Model:
    own = ASKED["models"].get(name)
    architecture = (
        read_architecture(name, where="model")
        if own is None
        else Architecture(name, AutoConfig.for_model(**own))
    )
    return Model(name, architecture.config.to_dict(), count_parameters(architecture))


def rows() -> pd.DataFrame:
    """Every row: measured and estimated tokens a second, and whether the band holds it."""
    made = []
    for row in ASKED["rows"]:
        speed = estimated(row)
        measured = row["tokens_per_s"]
        made.append(
            {
                "row": row["id"],
                "step": _words(row),
                "card": f"{row.get('num_gpus', 1)} x {row['card']}",
                "measured": measured,
                "estimated": round(speed.tokens_per_s, 1),
                "low": round(speed.low, 1),
                "high": round(speed.high, 1),
                "difference": round(speed.tokens_per_s / measured - 1, 3),
                "in_band": speed.low <= measured <= speed.high,
                "source": ASKED["sources"][row["source"]],
                "note": row.get("note", ""),
            }
        )
    return pd.DataFrame(made)


def _words(row: dict[str, Any]) -> str:
    plain = "" if row.get("checkpointing", True) else ", not checkpointed"
    return f"{row['model']} {row['row']} {row['batch_size']} x {row['tokens']}{plain}"


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| row | step | cards | theirs | ours | band | difference | in the band | note |"]
    lines.append("| --- " * 9 + "|")
    for row in table.itertuples():
        held = "yes" if row.in_band else "**no**"
        lines.append(
            f"| {row.row} | {row.step} | {row.card} | {row.measured:,.0f} | {row.estimated:,.0f} "
            f"| {row.low:,.0f} to {row.high:,.0f} | {100 * row.difference:+.0f} % | {held} "
            f"| {row.note} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Estimate all, write a csv file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the csv file")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    table = rows()
    table.to_csv(out / "rows.csv", index=False, lineterminator="\n")
    print(_markdown(table))


if __name__ == "__main__":
    main()
