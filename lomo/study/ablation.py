"""An ablation's cells: each change alone, stacked on those before it, and left out of the stack.

`plan_ablation` makes the runs of a section and says which of them each cell compares. Cells of the
same setting share a run. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lomo import methods
from lomo.errors import UserError
from lomo.model.registry import ModelEntry, check_head_loss
from lomo.specs import AblationSpec
from lomo.study.config import Study
from lomo.study.inputs import model_folder
from lomo.study.measured import Ablation, Setting
from lomo.study.refusals import check_compile, check_hyper, check_length, check_method
from lomo.system.strict import parse

BASE = "base"
OWN_KEYS = {"title", "needs", "replaces"}  # of a change, beside those that it sets


@dataclass(frozen=True)
class Cell:
    """A run and the run that it is compared with, or the reason why there is none."""

    run_id: str | None = None
    against: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """What one change of one model does; of the first row, the base, only `stacked` has a run.

    alone: base, what the change needs, and the change; against the same without it.
    stacked: with all changes before it; against the stack as it was.
    without: a stack (`left_out_of`) less the change and what needs it; against that stack.
    """

    model: str
    change: str
    title: str
    alone: Cell
    stacked: Cell
    without: Cell


def plan_ablation(
    study: Study, section: Ablation, models: Sequence[ModelEntry], where: str
) -> tuple[list[AblationSpec], list[Row]]:
    """The section's runs of `models`, and its rows.

    Raises UserError for a change that can't be made anywhere.
    """
    _check_names(section, where)
    specs: list[AblationSpec] = []
    rows: list[Row] = []
    for entry in models:
        runs = _Runs(study, section, entry, where)
        rows += runs.rows()
        specs += runs.made
    return specs, rows


def _check_names(section: Ablation, where: str) -> None:
    before: list[str] = []
    for name, change in section.changes.items():
        for key in ("needs", "replaces"):
            for other in getattr(change, key):
                if other not in before:
                    raise UserError(
                        f"{other!r} is no change before {name}",
                        where=f"{where}.changes.{name}.{key}",
                        allowed=", ".join(before) or "none: it is the first",
                    )
        if not change.model_dump(exclude_none=True, exclude=OWN_KEYS):
            raise UserError("changes nothing", where=f"{where}.changes.{name}")
        before.append(name)
    if section.left_out_of not in (None, *before):
        raise UserError(
            f"{section.left_out_of!r} is no change",
            where=f"{where}.left_out_of",
            allowed=", ".join(before),
        )


class _Runs:
    """The runs of one model, made as cells ask for them, each setting once."""

    def __init__(self, study: Study, section: Ablation, entry: ModelEntry, where: str) -> None:
        self.study, self.section, self.entry, self.where = study, section, entry, where
        self.made: list[AblationSpec] = []

    def rows(self) -> list[Row]:
        """The base, and a row for each change."""
        base = Cell(self.run_of(()))
        none = Cell()
        found = [Row(self.entry.name, BASE, self._title(None), none, base, none)]
        stacked, full = self._stack()
        for name in self.section.changes:
            needed = self._needed(name)
            alone = self._cell((*needed, name), needed)
            without = Cell()
            if name in full:
                left = [n for n in full if n != name and name not in self._needed(n)]
                without = self._cell(left, full)
            row = Row(self.entry.name, name, self._title(name), alone, stacked[name], without)
            if row.alone.run_id is None and row.stacked.run_id is None:
                self.run_of((*needed, name))  # raises why
            found.append(row)
        return found

    def _stack(self) -> tuple[dict[str, Cell], list[str]]:
        """Each change's cell in the stack, and the stack that changes are left out of.

        What is refused stays out of it.
        """
        cells: dict[str, Cell] = {}
        stack: list[str] = []
        full: list[str] = []
        last = self.section.left_out_of or list(self.section.changes)[-1]
        for name, change in self.section.changes.items():
            grown = [*(n for n in stack if n not in change.replaces), name]
            lacking = [n for n in self._needed(name) if n not in grown]
            if lacking:
                reason = f"it needs {' and '.join(lacking)}, which the stack has not"
                cells[name] = Cell(reason=reason)
            else:
                cells[name] = self._cell(grown, stack)
                stack = grown if cells[name].run_id else stack
            full = stack if name == last else full
        return cells, full

    def _needed(self, name: str) -> tuple[str, ...]:
        """What a change needs, and what that needs, in the order of the study."""
        direct = self.section.changes[name].needs
        found = {*direct, *(n for other in direct for n in self._needed(other))}
        return tuple(n for n in self.section.changes if n in found)

    def _cell(self, names: Sequence[str], against: Sequence[str]) -> Cell:
        try:
            return Cell(self.run_of(names), self.run_of(against))
        except UserError as error:
            return Cell(reason=error.what)

    def _title(self, name: str | None) -> str:
        if name is not None:
            return self.section.changes[name].title or name
        base = self.section.base
        return f"{methods.describe(base.method).title}, {base.dtype}"

    def run_of(self, names: Sequence[str]) -> str:
        """The id of the run with these changes. Raises UserError where they can't be together."""
        spec = self._spec(names)
        for other in self.made:
            if other == spec.model_copy(update={"run_id": other.run_id, "cell": other.cell}):
                return other.run_id
        self.made.append(spec)
        return spec.run_id

    def _spec(self, names: Sequence[str]) -> AblationSpec:
        section, entry = self.section, self.entry
        where = f"{self.where}.changes.{names[-1]}" if names else f"{self.where}.base"
        setting = combined(section, names)
        check_length(entry, section.sequence_length, f"{self.where}.sequence_length")
        methods.check_name(setting.method, where=f"{where}.method", peers_too=True)
        described = methods.describe(setting.method)
        if not described.trains:
            raise UserError(f"{setting.method} takes no step to measure", where=f"{where}.method")
        for key in setting.hyper:
            if key not in described.hyper.model_fields:
                raise UserError(
                    f"{setting.method} has no {key}",
                    where=f"{where}.hyper",
                    allowed=", ".join(described.hyper.model_fields) or "nothing",
                )
        hyper = parse(described.hyper, setting.hyper, where=f"{where}.hyper").model_dump()
        cell = "-".join(names) or BASE
        spec = AblationSpec(
            study=self.study.study,
            run_id=f"measure/{entry.name}/ablation/{cell}",
            model=entry.name,
            model_path=model_folder(entry, self.study.study),
            device=self.study.device,
            num_threads=self.study.num_threads,
            cell=cell,
            **{**setting.model_dump(), "hyper": hyper},
            **section.model_dump(exclude={"models", "base", "changes", "left_out_of"}),
        )
        check_method(spec.method, spec, f"{where}.")
        check_hyper(spec.method, spec.hyper, spec, f"{where}.hyper")
        check_head_loss(spec.head_loss, spec.engine, entry.architecture, f"{where}.head_loss")
        check_compile(spec, f"{where}.compile")
        return spec


def combined(section: Ablation, names: Sequence[str]) -> Setting:
    """The base with these changes, made in the order of the study."""
    data: dict[str, Any] = section.base.model_dump()
    for name in section.changes:
        if name not in names:
            continue
        change = section.changes[name].model_dump(exclude_none=True, exclude=OWN_KEYS)
        own = change.pop("hyper", {})
        kept = {} if "method" in change else data["hyper"]
        data |= {**change, "hyper": {**kept, **own}}
    return Setting.model_validate(data)
