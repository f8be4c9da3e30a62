"""The report: one self-contained page with the study's tables, figures, verdicts and origin."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lomo.errors import UserError
from lomo.system.files import write_text

from ..figures.all import TRAINING_FIGURES, figures_of
from ..figures.curves import OVER
from ..records.collected import Collected, load
from ..records.costs import costs, zero_shot
from ..records.histories import SMOOTHED_SHARE
from ..text.grid import Table
from ..text.names import NOT_RUN
from ..text.render import environment, link_from
from ..text.units import decimals
from ..verdicts.all import all_verdicts
from ..verdicts.verdict import VERDICTS, counts_by_kind
from .explorer import explorer
from .findings import findings
from .runs import run_list
from .tables import tables_of

BAND = (
    "Line: mean over the seeds; band: from the least seed to the most. Cross: the training stopped "
    "there."
)
CAPTIONS = {
    "overview": "Peak memory of a training step by part, speed (that of Table 2, where it has the "
    "model), and mean accuracy of each method. Lines: the 95 % interval of each value alone; "
    "whether two differ is told by a paired test, in Verdicts.",
    "peers": "Ways to take one step: peak memory against time, both over those of forward and "
    "backward alone, with each gradient dropped at once. Bars: least to most of the rounds.",
    "ablation": "What saves how much: peak memory of a step as changes are stacked, and what each "
    "change saves alone, in the stack, and what is lost without it.",
    "rounding": "What 16-bit weights lose: the same trainings with weights held in several ways. "
    "Lines: 95 % intervals. Share of the intended step that was applied, of all weights and of "
    "each group of them (ticks; the least is named where they differ).",
    "instruct": "Instruction tuning: training loss, each seed's running mean over "
    f"{100 * SMOOTHED_SHARE:.0f} % of the steps, and perplexity after each epoch. {BAND}",
    "1": "Gradient bytes alive over one backward pass: SGD keeps every gradient until the step, "
    "LOMO updates a tensor as soon as its gradient is there, and drops it.",
    "2": "Share of each part in the paper's sum of terms; at the right, the sum.",
    "3": "LoRA with and without LOMO on the base weights. Bars: the 95 % interval of each value "
    "alone; whether two differ is told by a paired test, in Verdicts. "
    "Hollow and dashed: the paper's values, where they are comparable.",
    "4": "Training loss of the reported trials, a running mean; thin: single steps. Of several "
    "seeds the mean, and a band from the least to the most.",
    "5": "Accuracy after each epoch, on the split that selects the epoch; mean and band as in "
    "Figure 4.",
    "6": "Not in the paper: peak memory against mean accuracy, the area of a point is the time of "
    "a step. Hollow: its time was not measured in that setting.",
    "loss_steps": "Training loss of every method, on each task: each seed's running mean over "
    f"{100 * SMOOTHED_SHARE:.0f} % of the steps. {BAND}",
    "accuracy_steps": "Accuracy after each epoch, on the split that selects the epoch. Dashed: the "
    f"base model before any training. {BAND}",
    "grad_norm_steps": "Norm of the gradient before clipping, as a running mean; of what a method "
    f"trains, of LoRA+LOMO the base weights alone. {BAND}",
}


# Beside the tables of their sections, or at the head of the study.
AMONG_TABLES = ("overview", "peers", "ablation", "rounding", "instruct")


@dataclass(frozen=True)
class Shown:
    """A figure on the page; `beside`: (words, file) of the same over something else."""

    which: str
    title: str
    image: str
    caption: str
    beside: list[tuple[str, str]]


def make_report(results: Path) -> Path:
    """Writes report/index.html from the collected table and the drawn figures; its path."""
    collected = load(results)
    drawn = figures_of(collected)
    verdicts = all_verdicts(collected)
    tables = [build(collected) for build in tables_of(collected).values()]
    figures = [
        Shown(which, _title(which), _image(collected, drawn[which][0]), caption, _beside(which))
        for which, caption in CAPTIONS.items()
        if which in drawn
    ]
    asked = explorer()
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            study=collected.plan.study,
            summary=summary(collected),
            contents=_contents(tables, figures, asked is not None),
            findings=findings(verdicts),
            kinds=[(k, list(of.values())) for k, of in counts_by_kind(verdicts).items()],
            verdict_names=VERDICTS,
            figures=figures,
            tables=tables,
            scripted=True,
            explorer=asked,
            runs=run_list(collected),
            published=link_from(results / "report"),
            origin=origin(collected),
        )
    )
    path = results / "report" / "index.html"
    write_text(path, page)
    return path


def _contents(
    tables: Sequence[Table], figures: Sequence[Shown], explored: bool
) -> list[tuple[str, str, bool]]:
    """The page's contents: (id, title, whether it is a part)."""
    papers = [(table.name, _short(table), False) for table in tables if _of_paper(table)]
    own = [(table.name, _short(table), False) for table in tables if not _of_paper(table)]
    drawn = [(f"figure-{f.which}", f.title, False) for f in figures if f.which not in AMONG_TABLES]
    return [
        ("findings", "Findings", True),
        ("paper-size", "At the paper's size", True),
        *papers,
        *([("fits", "What fits", True)] if explored else []),
        ("study", "This study", True),
        *own,
        ("figures", "Figures", True),
        *drawn,
        ("runs", "Runs", True),
        ("origin", "Origin", True),
    ]


def _title(which: str) -> str:
    words = which.replace("grad_norm", "gradient norm").replace("_steps", " over steps")
    return f"Figure {which}" if which.isdigit() else words.capitalize()


def _beside(which: str) -> list[tuple[str, str]]:
    """The further files of a figure over steps."""
    quantity, _, over = which.rpartition("_")
    if over != "steps":
        return []
    others = [f"{quantity}_{other}" for other in OVER if other != over]
    return [
        (f"over {name.rpartition('_')[2]}", f"../figures/{TRAINING_FIGURES[name][0]}.svg")
        for name in others
    ]


def _of_paper(table: Table) -> bool:
    return table.name.startswith("paper_")


def _short(table: Table) -> str:
    return table.title.split(" at the paper's size")[0]


def summary(collected: Collected) -> str:
    """One or two sentences: what ran, and what LOMO costs and reaches."""
    statuses = Counter(collected.runs["status"])
    planned, ended = sum(statuses.values()), statuses["ok"]
    text = f"{ended} of {planned} planned runs ended well"
    missing = statuses[NOT_RUN]
    text += f", {missing} have no record yet." if missing else "."
    found = costs(collected)
    if isinstance(found, str) or "lomo" not in found.averages:
        return text
    reached = 100 * (found.averages["lomo"].accuracy or 0.0)
    text += f" On {found.model}, LOMO reaches {decimals(reached, 1)} % on average"
    base = zero_shot(found)
    if base is not None:
        text += f", {decimals(reached - base, 1)} points above zero-shot"
    lomo, adamw = found.measured.get("lomo"), found.measured.get("adamw")
    if lomo and adamw:
        share = 100 * lomo.peak_bytes / adamw.peak_bytes
        text += f", with {decimals(share, 0)} % of AdamW's peak memory ({found.setting})"
    return text + "."


def origin(collected: Collected) -> list[tuple[str, str]]:
    """What the records say of where they come from: (what, values)."""
    runs = collected.runs
    columns = {
        "protocol": "protocol_version",
        "code (git commit)": "git_commit",
        "uncommitted changes": "git_dirty",
        "device": "device_name",
        "threads": "num_threads",
        "Python": "python",
        "torch": "torch",
        "transformers": "transformers",
    }
    rows = [("plan", collected.plan.source)]
    for what, column in columns.items():
        values = sorted({str(value) for value in runs[column].dropna()})
        rows.append((what, ", ".join(values) or "unknown"))
    fingerprints = runs.dropna(subset=["fingerprint"])
    pairs = fingerprints[["kind", "method", "fingerprint"]].drop_duplicates()
    texts = [f"{row.kind} {row.method} {row.fingerprint[:12]}" for row in pairs.itertuples()]
    rows.append(("fingerprints", ", ".join(sorted(texts)) or "unknown"))
    statuses = Counter(runs["status"])
    rows.append(("runs", ", ".join(f"{num} {name}" for name, num in sorted(statuses.items()))))
    return rows


def _image(collected: Collected, name: str) -> str:
    """The figure's SVG as a data URL: inside an img, its ids meet no other figure's."""
    path = collected.folder / "figures" / f"{name}.svg"
    if not path.is_file():
        raise UserError(
            "the figure is not drawn yet",
            where=str(path),
            fix=f"python -m lomo_analysis figure --results {collected.folder}",
        )
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
