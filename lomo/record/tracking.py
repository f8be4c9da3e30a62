"""What a run tells while it works: history.jsonl always, and a W&B run where the study wants it."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lomo.record.schema import Record
from lomo.record.wandb_runs import WandbRun
from lomo.system.files import cannot_write


class History:
    """Appends events to `history.jsonl`, and to W&B where LOMO_WANDB=online. Starts anew.

    Raises UserError where the file can't be written, or where W&B takes no run.
    """

    def __init__(self, study: str, run_id: str, spec: dict[str, Any], folder: Path) -> None:
        self._path = folder / "history.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        online = os.environ.get("LOMO_WANDB") == "online"
        self._wandb = WandbRun(study, run_id, spec, folder, "online") if online else None

    def add(self, event: str, **values: Any) -> None:
        """One event with its values."""
        # JSON knows no NaN and no infinity.
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
        try:
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        self._tell("add", {"event": event, **values})

    def text(self) -> str:
        """All lines so far."""
        return self._path.read_text(encoding="utf-8")

    def begin_with(self, text: str) -> None:
        """Begins with the lines of an earlier process, which did the work so far, told W&B too."""
        try:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        if self._wandb is not None:
            last = [json.loads(line)["step"] for line in text.splitlines()]
            self._wandb.go_on_after(max(last, default=0))

    def close(self, record: Record | None) -> None:
        """Ends the history; without a record the run was the user's mistake, or met a bug."""
        with suppress(OSError):  # a line that the disk did not take was told when it was added
            self._file.close()
        self._tell("finish", record)

    def _tell(self, what: str, told: Any) -> None:
        """W&B may fail in the middle: the run goes on, and its history is in the file."""
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, what)(told)
        except Exception as error:
            self._wandb = None
            print(f"W&B takes no more of this run ({error}); {self._path} has it", file=sys.stderr)
