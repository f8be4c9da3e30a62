"""One run of a suite = one process = one record, whatever happens inside."""

from __future__ import annotations

from pathlib import Path

import torch

from lomo.model.weights import weights_sha256
from lomo.record.clock import Clock
from lomo.record.evidence import SAMPLES
from lomo.record.provenance import fingerprint_of, read_provenance
from lomo.record.schema import Provenance
from lomo.record.suite import Status, SuiteRecord, believed, write_suite_record
from lomo.run.execute import choose_device, is_out_of_memory
from lomo.run.instruct.saved import why_not_saved
from lomo.run.suites.kept import Kept, keep, key_of, take
from lomo.run.suites.score import not_finite
from lomo.run.suites.tasks import Unsupported
from lomo.run.suites.work import Found, data_sha256, work
from lomo.specs import SuiteSpec
from lomo.system.files import write_json_lines


def execute_suite(
    spec: SuiteSpec, folder: Path, clock: Clock, scores: Path | None = None
) -> SuiteRecord:
    """Does the run, writes its record and samples into `folder` and returns it.

    scores: where scores of other runs are kept, and this one's will be; None for neither. Raises
    UserError for what the user can mend: no record is written then.
    """
    device = choose_device(spec.device)
    torch.set_num_threads(spec.num_threads)
    provenance = read_provenance(spec, device)
    found = Found()
    status: Status = "ok"
    why = None
    try:
        if (reason := why_not_saved(Path(spec.model_path))) is not None:
            raise Unsupported(reason)
        found = _found(spec, device, clock, found, provenance, scores)
    except Unsupported as error:
        status, why = "unsupported", str(error)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status, why = "oom", (str(error) or "out of memory").splitlines()[0]
    if not_finite(found.samples):
        status, why, found.score = "diverged", "a score is not finite", None
    with clock.phase("save"):
        if found.score is not None:
            write_json_lines(folder / SAMPLES, found.samples)
    parts = {
        "evidence": why,
        "model": found.model,
        "score": found.score,
        "reused_from": found.reused_from,
    }
    reasons = {"evidence": "the run ended well", "reused_from": "it was scored in this run"}
    stopped = f"the run ended with status {status} before it"
    record = SuiteRecord(
        study=spec.study,
        run_id=spec.run_id,
        status=status,
        spec=spec.model_dump(mode="json"),
        provenance=provenance,
        clock=clock.read(),
        missing={n: reasons.get(n, stopped) for n, part in parts.items() if part is None},
        **parts,
    )
    write_suite_record(folder / "record.json", record)
    return record


def _found(
    spec: SuiteSpec,
    device: str,
    clock: Clock,
    found: Found,
    provenance: Provenance,
    scores: Path | None,
) -> Found:
    """What the work finds, or has found for another run of the same weights and questions."""
    data = data_sha256(spec) if scores is not None else None
    weights = weights_sha256(spec.model_path) if data else None
    if scores is None or data is None or weights is None:
        work(spec, device, clock, found)
        return found
    key = key_of(spec, weights, data, provenance)
    if (there := take(scores, key)) is not None:
        clock.loaded()
        model = there.model.model_copy(update={"name": spec.model})
        return Found(model, there.score, there.samples, there.run)
    work(spec, device, clock, found)
    if found.model is not None and found.score is not None and not not_finite(found.samples):
        run = f"{spec.study}: {spec.run_id}"
        keep(scores, key, Kept(run, found.model, found.score, found.samples))
    return found


def finished_suite(spec: SuiteSpec, folder: Path) -> SuiteRecord | None:
    """The record in `folder` if it is believed and of just this spec and code, else None."""
    try:
        record, _ = believed(folder / "record.json", spec)
    except ValueError:  # a UserError is one too
        return None
    return record if record.provenance.fingerprint == fingerprint_of(spec) else None
