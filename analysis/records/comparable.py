"""Whether a measured value may stand beside a printed one, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lomo.record.schema import MAX_PEAK_DIFFERENCE

from ..text.names import listed, method_title
from ..text.units import number
from .collected import Collected

# Why there is no verdict.
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"

# Sequence length and batch size a device of the paper's Tables 1 and 2.
PAPER_SETTING = {"memory": (512, 8), "throughput": (1024, 1)}
PAPER_GPU = "3090"


Size = tuple[int, int, int]


def size_of(row: Any) -> Size:
    """Sequence length, batch size a device and devices: only runs of one size are compared."""
    return int(row.sequence_length), int(row.batch_size), int(row.num_devices)


def size_text(size: Size) -> str:
    """A size in words."""
    sequence, batch, devices = size
    return f"{batch} x {sequence} tokens" + (f" on {devices} devices" if devices > 1 else "")


def why_absent(collected: Collected, section: str, size: str, method: str) -> tuple[str, str]:
    """Verdict and reason for a printed value that no run of the plan stands for."""
    if section not in collected.plan.sections:
        return NOT_RUN, f"the study has no {section} section"
    models = collected.models(section)
    if not any(collected.plan.models[name].paper for name in models):
        verb = "is not one of" if len(models) == 1 else "are not among"
        return NOT_COMPARABLE, f"{listed(models)} {verb} the paper's models"
    return NOT_RUN, f"the study does not ask for {size} with {method_title(method)}"


def why_not_measured(collected: Collected, section: str, row: Any) -> str | None:
    """Why a measured run does not stand beside Table 1 or 2; None if it does."""
    size = collected.plan.models[row.model].paper
    if size is None:
        return f"{row.model} is not one of the paper's models"
    sequence, batch = PAPER_SETTING[section]
    if (row.sequence_length, row.batch_size) != (sequence, batch):
        mine = f"{row.sequence_length} x {row.batch_size}"
        return f"measured at {mine} tokens, the paper at {sequence} x {batch}"
    if row.dtype == "float32":
        return "measured with 32-bit weights, the paper with 16-bit ones"
    return None


def why_not_devices(row: Any, num_printed: float | None) -> str | None:
    """Why the number of devices forbids a comparison with Table 2; None if it does not."""
    world = number(row.world_size) or number(row.num_devices)
    if world is None or num_printed is None or world == num_printed:
        return None
    devices = "device" if world == 1 else "devices"
    return f"measured on {world:.0f} {devices}, the paper on {num_printed:.0f}"


def why_not_speed(row: Any) -> str | None:
    """Why a speed is not comparable with the paper's; None if it is."""
    name = device_text(row.device_name)
    return None if PAPER_GPU in name else f"measured on {name}, the paper on RTX {PAPER_GPU}"


def device_text(text: object) -> str:
    """A device's name, or words where it is unknown."""
    return text if isinstance(text, str) else "an unknown device"


def why_not_accuracy(collected: Collected, model: str) -> str | None:
    """Why accuracies of `model` do not stand beside Table 3; None if they do."""
    if collected.plan.models[model].paper is None:
        return f"{model} is not one of the paper's models"
    if collected.plan.study.data == "generated":
        return "the study's tasks are generated, not SuperGLUE"
    return None


def measured_notes(rows: Sequence[Any]) -> list[str]:
    """What stands under every table of measured runs: who else was busy, and what an en dash is."""
    notes = _tenant_notes(rows)
    differ = [f"{r.model} {method_title(r.method)}" for r in rows if r.cuda_peaks_agree is False]
    if differ:
        notes.append(
            f"The metered step's peak is off the timed steps' by more than "
            f"{MAX_PEAK_DIFFERENCE:.0%}: {listed(dict.fromkeys(differ))}."
        )
    if any(row.status == "not_run" for row in rows):
        notes.append("An en dash marks a run that has no record yet.")
    return notes


def _tenant_notes(rows: Iterable[Any]) -> list[str]:
    """A note that names the processes of others beside measured runs, if there were any."""
    measured = [row for row in rows if row.status == "ok"]
    titles: dict[str, list[str]] = {}
    for row in measured:
        if row.co_tenants:
            names = listed(sorted(set(row.co_tenants.split(", "))))
            titles.setdefault(names, []).append(f"{row.model} {method_title(row.method)}")
    if not titles:
        return []
    parts = [
        f"{names} ({'all runs' if len(held) == len(measured) else listed(dict.fromkeys(held))})"
        for names, held in titles.items()
    ]
    return [f"Other processes were busy when these runs started: {'; '.join(parts)}."]


def computed_notes(rows: Iterable[Any]) -> list[str]:
    """A note where the runs of a table were computed with different instructions of a CPU."""
    found: dict[str, int] = {}
    for row in rows:
        if row.status == "ok" and row.cpu_capability is not None:
            found[row.cpu_capability] = found.get(row.cpu_capability, 0) + 1
    if len(found) < 2:
        return []
    parts = [f"{name} ({num} runs)" for name, num in found.items()]
    return [
        f"Computed with different instructions of a CPU: {listed(parts)}. A training can turn out "
        "otherwise with others, so differences between these runs are not the methods' alone."
    ]


def reason_notes(pairs: Iterable[tuple[str | None, str]]) -> list[str]:
    """A note for each reason why something is not comparable, with the methods it holds for."""
    known = list(pairs)
    methods = {method for _, method in known}
    notes = []
    for reason in dict.fromkeys(reason for reason, _ in known if reason):
        held = list(dict.fromkeys(method for other, method in known if other == reason))
        titles = f" ({listed(map(method_title, held))})" if set(held) != methods else ""
        notes.append(f"Not comparable with the paper: {reason}{titles}.")
    return notes
