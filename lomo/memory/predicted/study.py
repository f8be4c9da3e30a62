"""The predictions of a study: what its measured sections measure, without a run."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from lomo import engines
from lomo.errors import UserError
from lomo.memory.predicted.closed_form import AUTHORS, Zero3
from lomo.memory.predicted.predict import ZERO3, Device, predict
from lomo.model import june_2023
from lomo.model.architecture import entry_architecture
from lomo.model.registry import ModelEntry
from lomo.record.provenance import fingerprint
from lomo.specs import AblationSpec, MeasureSpec
from lomo.study.plan import Plan
from lomo.system import processes
from lomo.system.files import write_text

SECTIONS = ("memory", "throughput", "ablation")
PACKAGES = ("torch", "transformers", "peft")
# The devices of Table 2's rows, as analysis/paper/table2_throughput.csv has them.
NUM_DEVICES = {
    ("7B", "adamw"): 8,
    ("7B", "sgd"): 8,
    ("7B", "lomo"): 1,
    ("13B", "adamw"): 8,
    ("13B", "sgd"): 8,
    ("13B", "lomo"): 2,
    ("30B", "sgd"): 8,
    ("30B", "lomo"): 4,
    ("65B", "lomo"): 8,
}
TABLE_1 = ("adamw", "sgd", "lomo")


@dataclass(frozen=True)
class Asked:
    """One prediction: of which section, for which run, with which sizes of ZeRO-3's buffers."""

    section: str
    spec: MeasureSpec
    buffers: str = "defaults"  # or "authors", for engine zero3
    kind: ClassVar[str] = "predict"  # of the sources that make it, for their fingerprint

    @property
    def name(self) -> str:
        """Its file below the folder of predictions, without the ending."""
        spec = self.spec
        if isinstance(spec, AblationSpec):
            return f"{self.section}/{spec.model}/{spec.cell}"
        setting = (
            f"{spec.sequence_length}x{spec.batch_size}-{spec.dtype}-{spec.attention}-"
            f"{'checkpointed' if spec.activation_checkpointing else 'plain'}"
        )
        if spec.engine != "single":
            setting += f"-{spec.engine}-{spec.num_devices}"
        if spec.engine == "zero3":
            setting += f"-{self.buffers}"
        return f"{self.section}/{spec.model}/{spec.method}/{setting}"


def asked_by(plan: Plan) -> list[Asked]:
    """What to predict for a study: each of its measured runs, and the paper's way of it.

    Where a model is the paper's, Table 1's rows are asked for with eager attention too, the only
    one of June 2023, and Table 2's on the paper's number of devices, under ZeRO-3 with the
    authors' settings and under FSDP2.
    """
    found: dict[str, Asked] = {}
    for section in SECTIONS:
        for run in plan.sections.get(section, ()):
            spec = plan.runs[run]
            assert isinstance(spec, MeasureSpec)
            for asked in _variants(section, spec, plan.models[spec.model].paper):
                found.setdefault(asked.name, asked)
    return list(found.values())


def asked_of_june_2023(plan: Plan) -> list[Asked]:
    """What the paper prints in Tables 1 and 2 of the study's runs, as it ran them: float16, eager.

    For a process that has the modelling code of then (lomo/model/june_2023.py).
    """
    found = []
    for asked in asked_by(plan):
        spec = asked.spec
        paper = plan.models[spec.model].paper
        if asked.section == "memory":
            printed = paper == "7B" and spec.method in TABLE_1 and spec.attention == "eager"
        else:
            devices = NUM_DEVICES.get((str(paper), spec.method))
            printed = spec.num_devices == devices and spec.engine != "fsdp2"
        if printed:
            then = spec.model_copy(update={"dtype": "float16", "attention": "eager"})
            found.append(Asked(asked.section, then, asked.buffers))
    return found


def _variants(section: str, spec: MeasureSpec, paper: str | None) -> Iterator[Asked]:
    def other(buffers: str = "defaults", **changes: Any) -> Asked:
        return Asked(section, spec.model_copy(update=changes), buffers)

    num_devices = NUM_DEVICES.get((str(paper), spec.method))
    if section == "throughput" and num_devices and spec.engine == "single":
        if num_devices == 1:
            yield Asked(section, spec)
        yield other("authors", engine="zero3", num_devices=num_devices)
        yield other(engine="fsdp2", num_devices=num_devices)
        return
    yield Asked(section, spec)
    if section == "memory" and paper == "7B" and spec.method in TABLE_1:
        yield other(attention="eager")


def predict_study(
    plan: Plan, out: Path, say: Callable[[str], None], *, num_processes: int = 1
) -> None:
    """Writes one JSON file a prediction below `out`, and last the list of them, index.json.

    A process with the modelling code of June 2023 predicts what the paper prints.

    A file that stands with the same fingerprint is kept. What can't be predicted is written with
    its reason in place of a ledger. Processes are forked from this one, which has the imports.
    Raises RuntimeError where one of them fails.
    """
    wanted = asked_of_june_2023(plan) if june_2023.in_use() else asked_by(plan)
    everything = [(asked, plan.models[asked.spec.model]) for asked in wanted]
    waiting = [(asked, entry) for asked, entry in everything if not stands(asked, entry, out)]

    def write(index: int) -> str:
        return _write(*waiting[index], out)

    for _, line in processes.results(write, len(waiting), num_processes):
        say(line)
    names = [asked.name for asked, _ in everything]
    write_text(out / "index.json", json.dumps(names, indent=1) + "\n")


def _write(asked: Asked, entry: ModelEntry, out: Path) -> str:
    """Makes one prediction and writes it; a line about it."""
    spec = asked.spec
    done = {
        "fingerprint": fingerprint_of_prediction(asked, entry),
        # Alone, since a reader without these libraries can ask whether the code is still the same.
        "code": fingerprint(asked.kind, spec.method, engine=spec.engine),
        **_predicted(asked, entry),
    }
    write_text(out / f"{asked.name}.json", json.dumps(done, indent=1) + "\n")
    gc.collect()  # a simulated model has cycles
    return f"{asked.name}  {done['reason'] or done['account']}  ({done['wall_s']:.1f} s)"


def stands(asked: Asked, entry: ModelEntry, out: Path) -> bool:
    """Whether a whole file of this prediction, by the same code and libraries, is there."""
    try:
        standing = json.loads((out / f"{asked.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    found = standing.get("fingerprint") if isinstance(standing, dict) else None
    return bool(found == fingerprint_of_prediction(asked, entry))


def _sizes(asked: Asked) -> Zero3:
    return AUTHORS if asked.buffers == "authors" else ZERO3


def _predicted(asked: Asked, entry: ModelEntry) -> dict[str, Any]:
    spec = asked.spec
    facts: dict[str, Any] = {
        "section": asked.section,
        "paper_model": entry.paper,
        "buffers": asked.buffers if spec.engine == "zero3" else None,
        "packages": {name: version(name) for name in PACKAGES},
        "spec": spec.model_dump(mode="json"),
    }
    found: dict[str, Any] = dict.fromkeys(("reason", "account", "unsupported", "ledger"))
    device: Device = "cpu" if spec.device == "cpu" else "cuda"
    started = time.perf_counter()
    try:
        engines.check(spec.engine, spec.num_devices, spec.method, where="")
        prediction = predict(entry_architecture(entry), spec, device=device, zero3=_sizes(asked))
    except UserError as error:
        found["reason"] = str(error)
    else:
        ledger = asdict(prediction.ledger)
        del ledger["timeline"]
        found["account"], found["unsupported"] = prediction.account, prediction.unsupported
        found["ledger"] = ledger
    return {**facts, **found, "wall_s": time.perf_counter() - started}


def fingerprint_of_prediction(asked: Asked, entry: ModelEntry) -> str:
    """Hash of what decides a prediction: its code, libraries, model and setting."""
    spec = asked.spec
    facts = [
        fingerprint(asked.kind, spec.method, engine=spec.engine),
        *(f"{name} {version(name)}" for name in PACKAGES),
        entry.model_dump_json(),
        spec.model_dump_json(),
        json.dumps(asdict(_sizes(asked))),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
