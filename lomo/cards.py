"""GPUs by name: the memory that a process sees, and the memory's speed. Imports no torch.

Peak rates stand in lomo/flops.py. GiB are those of torch's "total capacity", which is what a
process can have: less than the GB on the box, and some 0.3 GiB less than nvidia-smi's total.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lomo.errors import UserError, nearest
from lomo.flops import peak_flops_per_s

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(gib|gb|g)?\s*", re.IGNORECASE)
_MAKER = re.compile(r"\b(nvidia|geforce|tesla|quadro)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Card:
    """One kind of GPU. gib: memory of one; bytes_per_s: its memory's bandwidth, by the vendor."""

    name: str
    gib: float
    bytes_per_s: float | None = None

    def flops_per_s(self, dtype: str) -> float | None:
        """Operations a second at most, None where the table does not know them."""
        return peak_flops_per_s(self.name, dtype)


# name, GiB, bandwidth in GB/s by the vendor's datasheet.
CARDS = tuple(
    Card(name, gib, 1e9 * rate)
    for name, gib, rate in (
        ("RTX 2080 Ti", 10.75, 616),
        ("RTX 3060", 11.76, 360),
        ("RTX 3080", 9.78, 760),
        ("RTX 3090", 23.69, 936),
        ("RTX 4060 Ti 16GB", 15.60, 288),
        ("RTX 4070", 11.72, 504),
        ("RTX 4080", 15.70, 717),
        ("RTX 4090", 23.64, 1008),
        ("RTX 5080", 15.47, 960),
        ("RTX 5090", 31.36, 1792),
        ("RTX A6000", 47.43, 768),
        ("RTX 6000 Ada", 47.50, 960),
        ("T4", 14.57, 320),
        ("V100 16GB", 15.77, 900),
        ("V100 32GB", 31.74, 900),
        ("A10", 21.99, 600),
        ("A40", 44.35, 696),
        ("L4", 21.95, 300),
        ("L40S", 44.39, 864),
        ("A100 40GB", 39.39, 1555),
        ("A100 80GB", 79.15, 2039),
        ("H100", 79.10, 3350),
        ("H100 NVL", 93.00, 3938),
        ("H200", 139.72, 4800),
        ("B200", 178.35, 8000),
    )
)


def card_of(text: str, *, where: str) -> Card:
    """The card that `text` means: "24", "24GB", "24 GiB", or a name such as "RTX 4090".

    Raises UserError for a size of nothing and a name that the table does not have.
    """
    size = _SIZE.fullmatch(text)
    if size:
        gib = float(size[1])
        if not 0 < gib < math.inf:
            raise UserError(f"a card of {gib:g} GiB", where=where, allowed="above 0")
        return Card(f"a card of {gib:g} GiB", gib)
    by_key = {_key(card.name): card for card in CARDS}
    asked = _key(text)
    if asked in by_key:
        return by_key[asked]
    sizes = [card for key, card in by_key.items() if re.match(rf"{re.escape(asked)}\d+gb$", key)]
    if asked and len(sizes) == 1:
        return sizes[0]
    known = [card.name for card in CARDS]
    close = [card.name for card in sizes] or [name for name in [nearest(text, known)] if name]
    raise UserError(
        f"{text!r} is no card of the table",
        where=where,
        allowed=f"its GiB, such as 24, or {', '.join(known)}",
        fix=f"did you mean {' or '.join(close)}?" if close else None,
    )


def _key(name: str) -> str:
    """The name as people write it in ten ways: "nvidia geforce rtx4090", "RTX-4090"."""
    return re.sub(r"[^a-z0-9]", "", _MAKER.sub("", name.lower()))
