"""What a row takes of time, measured on that card where a published record tells, else an estimate;
and the price of each switch in memory and time, all else as advised.

A step takes as long as the longest of what runs side by side: products, reading the weights, the
host, messages between cards; and the update behind it. docs/advise.md has the terms and the band.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lomo.advise.rows import Fit, RowKind, Setting
from lomo.errors import UserError
from lomo.forecast.duration import SUSTAINED, Sizes, work_of
from lomo.memory.predicted.closed_form import BYTES
from lomo.record.made import PUBLISHED
from lomo.study.cards import CARDS, Card, card_seen
from lomo.study.machine import budget_bytes

if TYPE_CHECKING:
    from lomo.model.architecture import Architecture


# Share of a card's peak: the speeds that others published (docs/advise.md) lie in this band.
LOW, HIGH = 0.30, 0.90
# Bytes a trained parameter that an update reads and writes; counted from the optimizers' code.
UPDATE_BYTES = {
    "lomo": 6,
    "lora_lomo": 6,
    "adalomo": 100,
    "sgd": 24,
    "adamw": 84,
    "torch_adamw": 14,
}
# Bytes a score of eager attention that a pass reads and writes: the softmax and its copies.
SCORE_BYTES = 40
# Bytes a second between cards, one direction: NVLink by the vendor's papers, half of it taken.
LINKS = {"A100": 150e9, "H100": 225e9, "H200": 225e9, "B200": 450e9}
# Between cards without it: what LOMO's paper had in 2023, and what a host can pass on at most.
PCIE_LOW, PCIE, PCIE_HIGH = 1.5e9, 4e9, 10e9


@dataclass(frozen=True)
class Speed:
    """Tokens a second over all cards: most likely, lowest and highest; `basis` says whence."""

    tokens_per_s: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Model:
    """What the time of a step depends on. config: values of its Hugging Face config."""

    name: str
    config: Mapping[str, Any]
    num_parameters: int


def speed_of(
    kind: RowKind, setting: Setting, card: Card, model: Model, batch_size: int, mean_tokens: int
) -> Speed | str:
    """The speed at a batch of sequences of so many tokens a device, or why it is not known."""
    measured = _measured(kind, setting, card, model)
    if measured is not None:
        return measured
    tokens = batch_size * mean_tokens * setting.num_gpus
    found = []
    for share, pcie in ((SUSTAINED, PCIE), (LOW, PCIE_LOW), (HIGH, PCIE_HIGH)):
        shape = batch_size, mean_tokens
        step_s = step_seconds(kind, setting, card, model, *shape, share=share, pcie=pcie)
        if isinstance(step_s, str):
            return step_s
        found.append(tokens / step_s)
    return Speed(found[0], found[1], found[2], basis="estimate")


def step_seconds(
    kind: RowKind,
    setting: Setting,
    card: Card,
    model: Model,
    batch_size: int,
    num_tokens: int,
    *,
    share: float = SUSTAINED,
    pcie: float = PCIE,
) -> float | str:
    """Seconds of a step of `batch_size` sequences of `num_tokens` a device, or why not known.

    share: of the card's peak, at which products run. pcie: bytes a second between cards that have
    no other link.
    """
    peak = card.flops_per_s(setting.dtype)
    if peak is None and setting.dtype == "bfloat16":  # older cards: as in float16
        peak = card.flops_per_s("float16")
    if peak is None or card.bytes_per_s is None:
        return f"not known of {card.name}; with a name such as 'RTX 4090' it is"
    assert kind.method is not None
    trained = model.num_parameters if kind.trains_all else 0
    sizes = Sizes(model.config, model.num_parameters, trained)
    try:
        work = work_of(setting.spec(kind, model.name), sizes, batch_size, num_tokens)
    except ValueError as error:
        return str(error)
    num_backwards = work.num_backwards
    forwards = 1 + num_backwards * setting.checkpointing
    weights = BYTES[setting.dtype] * model.num_parameters
    reading = weights * (forwards + num_backwards * (1 + kind.trains_all)) / card.bytes_per_s
    computing = work.flops / (share * peak)
    if setting.attention == "eager":
        layers = _size(model, "num_hidden_layers", "n_layer")
        scores = layers * _size(model, "num_attention_heads", "n_head") * batch_size * num_tokens**2
        computing += SCORE_BYTES * scores * (forwards + num_backwards) / card.bytes_per_s
    # Over several cards each pass gathers the weights, and gradients are added up.
    passes = 1 + num_backwards * (1 + kind.trains_all)
    others = 1 - 1 / setting.num_gpus
    messages = weights * others * passes / _link(card, pcie)
    updating = UPDATE_BYTES.get(kind.method, 0) * model.num_parameters / setting.num_gpus
    return max(computing, reading, work.host_s, messages) + updating / card.bytes_per_s


def _link(card: Card, pcie: float) -> float:
    """Bytes a second from a card to another; boards for a slot have no NVLink, or a narrow one."""
    found = re.search(r"\b([ABH][12]00)\b(?!.*(PCIe|NVL))", card.name)
    return LINKS.get(found[1], pcie) if found else pcie


def _size(model: Model, *names: str) -> int:
    return next((int(model.config[name]) for name in names if model.config.get(name)), 1)


def time_ratio(
    kind: RowKind, base: Setting, flipped: Setting, card: Card, model: Model, batch_size: int
) -> float | None:
    """How many times as long a step takes with `flipped`, None where that is not known."""
    length = base.sequence_length
    before, after = (
        step_seconds(kind, setting, card, model, batch_size, length) for setting in (base, flipped)
    )
    if isinstance(before, str) or isinstance(after, str):
        return None
    return after / before


def _measured(kind: RowKind, setting: Setting, card: Card, model: Model) -> Speed | None:
    """What a published record measured: same model, method, number of cards and kind of card."""
    wanted = {
        "model": model.name,
        "method": kind.method,
        "num_devices": setting.num_gpus,
        "activation_checkpointing": setting.checkpointing,
        "max_grad_norm": setting.max_grad_norm,
    }
    found: list[tuple[int, Speed]] = []
    for study, record in _records():
        spec, throughput = record.get("spec") or {}, record.get("throughput")
        if not throughput or any(spec.get(key) != value for key, value in wanted.items()):
            continue
        name = ((record.get("provenance") or {}).get("device") or {}).get("name") or ""
        if not _same_card(card, name):
            continue
        rate = throughput["tokens_per_s_per_device"]
        length = spec["sequence_length"]
        low, high = (throughput.get(f"tokens_per_s_per_device_{p}", rate) for p in ("p10", "p90"))
        likely, least, most = (setting.num_gpus * value for value in (rate, low, high))
        basis = f"measured at {spec['batch_size']} x {length} tokens: {study}"
        speed = Speed(likely, least, most, basis)
        found.append((abs(length - setting.sequence_length), speed))
    return min(found, key=lambda entry: entry[0])[1] if found else None


def _same_card(card: Card, driver_name: str) -> bool:
    seen, own = card_seen(driver_name), card_seen(card.name, card.gib)
    return driver_name == card.name or (seen is not None and seen == own)


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each published record, with the folder of its study."""
    for path in sorted(PUBLISHED.glob("*/**/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        study = PUBLISHED / path.relative_to(PUBLISHED).parts[0]
        yield study.relative_to(PUBLISHED.parents[1]).as_posix(), record


CLIPPED = "gradient norm clipped"
# The first takes longest to simulate, so it is begun first.
FLIPS: Mapping[str, Mapping[str, Any]] = {
    CLIPPED: {"max_grad_norm": 1.0},
    "no checkpointing": {"checkpointing": False},
    "the model's own loss": {"head_loss": "model"},
    "eager attention": {"attention": "eager"},
    "float32 weights": {"dtype": "float32"},
}


@dataclass(frozen=True)
class Switch:
    """One flip: the peak with it; time_ratio: a step's time over that without, if known."""

    name: str
    peak_bytes: int
    time_ratio: float | None


def flipped(setting: Setting) -> dict[str, Setting]:
    """The flips that change anything here."""
    all_flips = {name: replace(setting, **change) for name, change in FLIPS.items()}
    return {name: flip for name, flip in all_flips.items() if flip != setting}


def peak_at(
    kind: RowKind, architecture: Architecture, setting: Setting, batch_size: int
) -> int | None:
    """The peak of one batch, None for what the model, or the method, refuses."""
    from lomo.memory.predicted.peaks import PeakByBatch

    try:
        return PeakByBatch(architecture, setting.spec(kind, architecture.name)).once(batch_size)
    except UserError:
        return None


def smallest_card(peak_bytes: int) -> Card | None:
    """The card of the table with least memory that holds such a peak, None where none does."""
    enough = [card for card in CARDS if budget_bytes(card.gib) >= peak_bytes]
    return min(enough, key=lambda card: card.gib, default=None)


def longest_sequence(
    fit: Fit, sequence_length: int, budget: int, positions: int | None
) -> int | None:
    """The longest sequence that fits alone, None where even one of those asked for does not.

    Without eager attention what a step takes depends on the number of tokens, hardly on how many
    sequences they are: so it is a line from the largest batch to one more. Rounded down to two
    digits, and never more than the model's positions.
    """
    if fit.next_bytes is None:
        return None
    rise = max(fit.next_bytes - fit.peak_bytes, 1)
    found = int(sequence_length * (fit.batch_size + (budget - fit.peak_bytes) / rise))
    if positions is not None and found >= positions:
        return positions
    unit = int(10 ** max(len(str(found)) - 2, 0))
    return max(found // unit * unit, sequence_length)
