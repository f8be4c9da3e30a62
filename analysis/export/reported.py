"""What travels: each accuracy that the tables report, with the believed record of each seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lomo.record.schema import Record
from lomo.specs import SELECTION
from lomo.study.plan import Plan

from ..records.accuracy import AVERAGE, Cell, accuracy_cells
from ..records.collect import read_records
from ..records.collected import Collected
from ..text.names import listed, method_title, status_text

# The sections whose cells are accuracies; a variant that two of them have is one.
SECTIONS = ("superglue", "lora_rank", "rounding")
DEVELOPER = "lomo-repro"


@dataclass(frozen=True)
class LeftOut:
    """What is not in an export: of which format, what, and why."""

    format: str
    what: str
    reason: str


@dataclass(frozen=True)
class Reported:
    """One accuracy, a fraction: the mean over its seeds, and the record of each, by seed."""

    cell: Cell
    records: dict[int, Record]

    @property
    def first(self) -> Record:
        """The record of the first seed: what all seeds share is read from it."""
        return next(iter(self.records.values()))

    @cached_property
    def started_at(self) -> str:
        """When the last of its runs began, as its record has it."""
        return max(record.provenance.started_at for record in self.records.values())

    def of_each(self, value: Callable[[Record], Any]) -> str:
        """What `value` says of each seed's record, as a JSON object by seed."""
        return json.dumps({str(seed): value(record) for seed, record in self.records.items()})

    def told_of(self, value: Callable[[Record], Any]) -> str:
        """The different values that `value` says of the records, in words."""
        return listed(dict.fromkeys(str(value(record)) for record in self.records.values()))

    def _version(self, package: str) -> str:
        return self.told_of(lambda record: record.provenance.packages.get(package, "unknown"))

    def facts(self) -> dict[str, str]:
        """Where the value comes from, and by which protocol: all of it as text."""
        packages = ("lm-eval", "transformers", "torch")
        versions = {name.replace("-", "_"): self._version(name) for name in packages}
        return {
            "source_records": " ".join(record.run_id for record in self.records.values()),
            "seeds": " ".join(map(str, self.records)),
            "value_by_seed": json.dumps({str(s): v for s, v in self.cell.by_seed.items()}),
            "num_examples": str(self.cell.num_examples),
            "base_weights_sha256_by_seed": self.of_each(_weights),
            "protocol": str(self.first.spec["protocol"]),
            "protocol_version": self.told_of(lambda record: record.protocol_version),
            "selected_on": SELECTION[self.first.spec["protocol"]],
            "trial": str(self.cell.trial),
            "num_trials": str(self.cell.num_trials),
            "hyper": json.dumps(self.first.spec["hyper"], sort_keys=True),
            "num_cut": self.of_each(lambda record: record.result and record.result.num_cut),
            "num_ties": self.of_each(lambda record: record.result and record.result.num_ties),
            "fingerprint": self.told_of(lambda record: record.provenance.fingerprint),
            "git_commit": self.told_of(lambda record: record.provenance.git_commit or "unknown"),
            "git_dirty": self.told_of(lambda record: record.provenance.git_dirty),
            "device": self.told_of(lambda record: record.provenance.device.name),
            **versions,
        }


def _weights(record: Record) -> str | None:
    return record.model.weights_sha256 if record.model else None


@dataclass(frozen=True)
class Variant:
    """A model as one method made it: its name for others, and its accuracies, one a task."""

    model: str
    variant: str
    accuracies: list[Reported]

    @property
    def name(self) -> str:
        """Model and variant in signs that a path and a repository may have."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", f"{self.model}-{self.variant}")

    @property
    def title(self) -> str:
        """The model and its method, for readers."""
        cell = self.accuracies[0].cell
        return f"{self.model}, {method_title(cell.method, cell.rank)}"


def variants_of(collected: Collected) -> tuple[list[Variant], list[LeftOut]]:
    """The variants that have an accuracy, and the cells that have none.

    Raises UserError for records that are not believed.
    """
    records = read_records(collected.folder, collected.plan)
    cells: dict[tuple[str, str, str], Cell] = {}
    for section in SECTIONS:
        if section in collected.plan.sections:
            for cell in accuracy_cells(collected, section):
                if cell.task != AVERAGE:
                    cells.setdefault((cell.model, cell.variant, cell.task), cell)
    by_variant: dict[tuple[str, str], list[Reported]] = {}
    left = []
    if collected.plan.study.instruct is not None:
        why = "a perplexity is of a model's own tokens, and stands beside no other model's"
        left.append(LeftOut("all", "instruct: perplexities of held-out answers", why))
    for (model, variant, task), cell in cells.items():
        if cell.accuracy is None:
            why = f"no run of it ended well: {status_text(cell.status)}"
            left.append(LeftOut("all", f"{model} {variant} {task}", why))
            continue
        read = {seed: records[run_id] for seed, run_id in cell.run_of.items()}
        by_variant.setdefault((model, variant), []).append(Reported(cell, read))
    return [Variant(*key, of) for key, of in by_variant.items()], left


def base_of(plan: Plan, model: str) -> dict[str, str]:
    """What a base model is and where its weights are from, as text; no path of a machine."""
    entry = plan.models[model]
    told = {
        "pretrain": "trained by the pipeline on generated text, one for each seed",
        "hub": f"hub: {entry.hub} at {entry.revision}",
        "package": f"package: {entry.package}, {entry.file}, sha256 {entry.sha256}",
        "local": "a local folder",
        "random": "random",
    }
    return {"base_model": model, "base_weights": told[entry.weights]}


def runs_in(variants: Iterable[Variant]) -> list[Record]:
    """The records of all variants, each once."""
    found = {
        record.run_id: record
        for variant in variants
        for each in variant.accuracies
        for record in each.records.values()
    }
    return list(found.values())
