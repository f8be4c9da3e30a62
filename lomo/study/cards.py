"""GPUs by name: the memory that a process sees, its speed, and peak rates. Imports no torch.

GiB are those of torch's "total capacity", which is what a
process can have: less than the GB on the box, and some 0.3 GiB less than nvidia-smi's total.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from lomo.errors import UserError

NEAR = 0.7
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|inf|nan)"
_SIZE = re.compile(rf"\s*({_NUMBER})\s*([gm])?(?:i?b)?\s*", re.IGNORECASE)
_FORM = re.compile(r"\b(SXM\d*|PCIe?|HBM\w*|Generation|\d+ ?GB)\b", re.IGNORECASE)
MOST_GIB = 2048  # no card has as much
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
        ("B200", 178.35, 7700),
    )
)


def card_of(text: str, *, where: str) -> Card:
    """The card that `text` means: "24", "24GB", "24564 MiB", or a name such as "RTX 4090".

    Raises UserError for a size of nothing and a name that the table does not have.
    """
    size = _SIZE.fullmatch(text)
    if size:
        gib = float(size[1]) / (1024 if (size[2] or "g").lower() == "m" else 1)
        if not 0 < gib < math.inf:
            raise UserError(f"a card of {gib:g} GiB", where=where, allowed="above 0")
        if gib > MOST_GIB:  # the number of a name, or MiB
            meant = [card.name for card in CARDS if size[1] in re.findall(r"\d+", card.name)]
            raise UserError(
                f"a card of {gib:g} GiB",
                where=where,
                allowed=f"at most {MOST_GIB} GiB, or a name",
                fix=f"did you mean {' or '.join(meant)}?" if meant else None,
            )
        return Card(f"a card of {gib:g} GiB", gib)
    by_key = {_key(card.name): card for card in CARDS}
    asked = _key(text)
    if asked in by_key:
        return by_key[asked]
    sizes = [card for key, card in by_key.items() if re.match(rf"{re.escape(asked)}\d+gb$", key)]
    if asked and len(sizes) == 1:
        return sizes[0]
    seen = card_seen(text)
    if seen is not None:
        return seen
    known = [card.name for card in CARDS]
    # A number is told wrong as often as a letter: all that are near are named.
    keys = difflib.get_close_matches(asked, by_key, n=3, cutoff=NEAR)
    close = [card.name for card in sizes] or [by_key[key].name for key in keys]
    raise UserError(
        f"{text!r} is no card of the table",
        where=where,
        allowed=f"its GiB, such as 24, or {', '.join(known)}",
        fix=f"did you mean {' or '.join(close)}?" if close else None,
    )


def card_seen(name: str, gib: float | None = None) -> Card | None:
    """The card of the table that a driver's name means, None where the table has none such.

    gib: its memory as a driver tells it; without, the size that the name holds. Of cards that come
    in several sizes the nearest is meant; one of another size than the table's is not in it.
    """
    told = re.search(r"(\d+) ?GB\b", name, re.IGNORECASE)
    size = gib if gib is not None else float(told[1]) if told else None
    key = _key(_FORM.sub("", name))
    alike = [card for card in CARDS if _key(_FORM.sub("", card.name)) == key]
    if size is None:
        return alike[0] if len(alike) == 1 else None
    near = [card for card in alike if abs(card.gib - size) <= 0.12 * size]
    return min(near, key=lambda card: abs(card.gib - size), default=None)


def _key(name: str) -> str:
    """The name as people write it in ten ways: "nvidia geforce rtx4090", "RTX-4090"."""
    return re.sub(r"[^a-z0-9]", "", _MAKER.sub("", name.lower()))


PEAK_TABLE = "vendors' dense rates, fp32 accumulate, TF32 off"

# Device name, as the driver gives it -> FLOP/s in bfloat16, float16 and float32, None where the
# device has no unit for it or the vendor gives no number. 16-bit: tensor cores without sparsity,
# sums in fp32 (GeForce cards have half the rate of sums in fp16). float32: outside tensor cores.
# The first pattern that is found counts, so special names stand before general ones. A device that
# is not here has no MFU: a guessed peak would be a guessed MFU.
_PEAKS: tuple[tuple[str, float | None, float | None, float | None], ...] = (
    # NVIDIA HGX B200 datasheet, per GPU.
    (r"\bB200\b", 2250e12, 2250e12, None),
    # NVIDIA H200 datasheet (SXM, NVL); GH200 has the same GPU.
    (r"\bH200 NVL\b", 835.5e12, 835.5e12, 60e12),
    (r"\bG?H200\b", 989.4e12, 989.4e12, 66.9e12),
    # NVIDIA H100 datasheet and Hopper architecture whitepaper (SXM5, PCIe); H800: the same units.
    (r"\bH100 NVL\b", 835.5e12, 835.5e12, 60e12),
    (r"\bH[18]00 PCIe\b", 756e12, 756e12, 51.2e12),
    (r"\bH[18]00\b", 989.4e12, 989.4e12, 66.9e12),
    # NVIDIA A100 datasheet (SXM and PCIe alike); A800: the same units.
    (r"\bA[18]00\b", 312e12, 312e12, 19.5e12),
    # NVIDIA A30, A40, A10 datasheets.
    (r"\bA30\b", 165e12, 165e12, 10.3e12),
    (r"\bA40\b", 149.7e12, 149.7e12, 37.4e12),
    (r"\bA10\b", 125e12, 125e12, 31.2e12),
    # NVIDIA L40S, L40, L4 datasheets.
    (r"\bL40S\b", 362.05e12, 362.05e12, 91.6e12),
    (r"\bL40\b", 181.05e12, 181.05e12, 90.5e12),
    (r"\bL4\b", 121e12, 121e12, 30.3e12),
    # NVIDIA RTX Blackwell, Ada and Ampere GA102 architecture whitepapers.
    (r"\bRTX 5090$", 209.5e12, 209.5e12, 104.8e12),
    (r"\bRTX 5080$", 112.6e12, 112.6e12, 56.3e12),
    (r"\bRTX 4090$", 165.2e12, 165.2e12, 82.6e12),
    (r"\bRTX 4080$", 97.5e12, 97.5e12, 48.7e12),
    (r"\bRTX 3090$", 71e12, 71e12, 35.6e12),
    (r"\bRTX 3080$", 59.5e12, 59.5e12, 29.8e12),
    # The papers leave these out: twice the vendor's rate in fp32, as of all above.
    (r"\bRTX 4070$", 58.2e12, 58.2e12, 29.1e12),
    (r"\bRTX 4060 Ti( 16GB)?$", 44.2e12, 44.2e12, 22.1e12),
    (r"\bRTX 3060$", 25.4e12, 25.4e12, 12.7e12),
    (r"\bRTX 6000 Ada\b", 364.2e12, 364.2e12, 91.1e12),
    (r"\bRTX A6000\b", 154.8e12, 154.8e12, 38.7e12),
    # NVIDIA Turing architecture whitepaper (no Founders Edition); no bfloat16 units.
    (r"\bRTX 2080 Ti$", None, 53.8e12, 13.4e12),
    # NVIDIA V100 and T4 datasheets; neither has bfloat16 units. By size: PCIe's, the lower.
    (r"\bV100-PCIE\b", None, 112e12, 14e12),
    (r"\bV100-SXM2\b", None, 125e12, 15.7e12),
    (r"\bV100 (16|32)GB$", None, 112e12, 14e12),
    (r"\bT4$", None, 65e12, 8.1e12),
)
_COLUMNS = {"bfloat16": 1, "float16": 2, "float32": 3}


def peak_flops_per_s(device_name: str, dtype: str) -> float | None:
    """What a device can do at most, in operations a second; None if the table does not know it.

    dtype: bfloat16, float16 or float32. A MIG instance has a part of a device, and is not known.
    """
    if " MIG " in device_name:
        return None
    for row in _PEAKS:
        if re.search(row[0], device_name, re.IGNORECASE):
            peak = row[_COLUMNS[dtype]]
            assert peak is None or isinstance(peak, float)
            return peak
    return None
