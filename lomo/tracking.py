"""What a run tells while it works: history.jsonl, always, and a W&B run where asked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lomo.plan import RunSpec
from lomo.record import Record


class History:
    """Appends events to `history.jsonl` and to W&B. A new run starts the file anew."""

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "history.jsonl").open("w", encoding="utf-8")
        self._wandb = _start_wandb(spec, folder) if spec.wandb != "off" else None

    def add(self, event: str, **values: Any) -> None:
        """One event with its values."""
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            step = values.pop("step", None)
            prefix = f"{values.pop('split')}/" if "split" in values else f"{event}/"
            numbers = {f"{prefix}{k}": v for k, v in values.items() if isinstance(v, int | float)}
            self._wandb.log(numbers, step=step)

    def close(self, record: Record) -> None:
        """Ends the W&B run with the record's results as its summary."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.summary.update(_summary(record))
            self._wandb.finish(exit_code=0)

    def abandon(self) -> None:
        """Ends what there is of a run that has no record: the user's mistake, or a bug."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=1)


def _start_wandb(spec: RunSpec, folder: Path) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "lomo-repro"),
        mode="online" if spec.wandb == "online" else "offline",
        id=f"{spec.study}-{spec.run_id}".replace("/", "-"),
        name=spec.run_id,
        group=spec.study,
        job_type=spec.run_id.split("/")[0],
        config=spec.model_dump(),
        dir=folder,
        resume="allow" if spec.wandb == "online" else None,
        settings=wandb.Settings(
            x_disable_stats=True, x_disable_meta=True, console="off", disable_git=True
        ),
    )


def _summary(record: Record) -> dict[str, Any]:
    summary: dict[str, Any] = {"status": record.status, "wall_s": record.clock.wall_s}
    if record.result:
        summary["accuracy"] = record.result.value
    if record.throughput:
        summary["tokens_per_s_per_device"] = record.throughput.tokens_per_s_per_device
    if record.memory:
        summary["peak_bytes"] = record.memory.peak_bytes
        summary.update(record.memory.sum_of_terms.model_dump(exclude={"missing"}))
    return summary
