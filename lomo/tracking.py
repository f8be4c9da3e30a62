"""What a run tells: history.jsonl always, and a W&B run, while it works or afterwards.

The same events make the same W&B run either way. `wandb: online` sends them as they come; `wandb:
offline` writes them to disk from the finished records, in one process for all runs, because
starting W&B takes longer than a short run.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from lomo.record import Record, read_record, write_text

PROJECT = "lomo-repro"


class History:
    """Appends events to `history.jsonl`, and to W&B where LOMO_WANDB=online. Starts anew."""

    def __init__(self, study: str, run_id: str, spec: dict[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "history.jsonl").open("w", encoding="utf-8")
        online = os.environ.get("LOMO_WANDB") == "online"
        self._wandb = WandbRun(study, run_id, spec, folder, "online") if online else None

    def add(self, event: str, **values: Any) -> None:
        """One event with its values."""
        # JSON knows no NaN and no infinity.
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.add({"event": event, **values})

    def close(self, record: Record | None) -> None:
        """Ends the history; without a record the run was the user's mistake, or met a bug."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(record)


class WandbRun:
    """One run on W&B: grouped by study, its spec as config, the record's results as summary."""

    def __init__(
        self, study: str, run_id: str, spec: dict[str, Any], folder: Path, mode: str
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._last_step = 0
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode="online" if mode == "online" else "offline",
            id=f"{study}-{run_id}".replace("/", "-"),
            name=run_id,
            group=study,
            job_type=run_id.split("/")[0],
            config=spec,
            dir=folder,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                x_disable_stats=True, x_disable_meta=True, console="off", disable_git=True
            ),
        )

    def add(self, event: dict[str, Any]) -> None:
        """One line of a history: numbers are logged at its step, evaluations under their split."""
        prefix = event.get("split", event["event"])
        numbers = {
            f"{prefix}/{key}": value
            for key, value in event.items()
            if isinstance(value, int | float) and key != "step"
        }
        # W&B drops what goes back in steps, and the kept epoch may be scored after later ones.
        self._last_step = max(self._last_step, event["step"])
        self._run.log({**numbers, f"{prefix}/of_step": event["step"]}, step=self._last_step)

    def finish(self, record: Record | None) -> None:
        """Ends the run, with what the record found."""
        if record is not None:
            self._run.summary.update(_summary(record))
        self._run.finish(exit_code=0 if record is not None else 1)


def publish(results: Path, run_ids: list[str]) -> Path:
    """Writes every finished run of a study as an offline W&B run; gives the list of them.

    They lie under `results`/wandb; `wandb sync results/<study>/wandb/offline-run-*` sends them.
    """
    folder = results / "wandb"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    published = []
    for run_id in run_ids:
        path = results / "runs" / run_id / "record.json"
        if not path.is_file():
            continue
        record = read_record(path)
        run = WandbRun(record.study, run_id, record.spec, results, "offline")
        history = path.with_name("history.jsonl")
        for line in history.read_text(encoding="utf-8").splitlines() if history.is_file() else ():
            run.add(json.loads(line))
        run.finish(record)
        published.append(run_id)
    target = folder / "published.json"
    write_text(target, json.dumps(published, indent=1) + "\n")
    return target


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
