"""A card by its size or its name."""

from __future__ import annotations

import pytest

from lomo.errors import UserError
from lomo.study.cards import CARDS, card_of, card_seen


@pytest.mark.parametrize(
    ("text", "gib"),
    [("24", 24), ("24GB", 24), ("24 GiB", 24), ("23.5g", 23.5), ("0.5", 0.5), ("24576MiB", 24)],
)
def test_a_size_is_a_card(text: str, gib: float) -> None:
    card = card_of(text, where="--gpu")
    assert card.gib == gib
    assert card.bytes_per_s is None and card.flops_per_s("bfloat16") is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("a100-80gb", "A100 80GB"),
        ("NVIDIA H200", "H200"),
        ("RTX 4060 Ti", "RTX 4060 Ti 16GB"),
        ("L40S", "L40S"),
    ],
)
def test_a_name_is_understood_as_people_write_it(text: str, name: str) -> None:
    assert card_of(text, where="--gpu").name == name


@pytest.mark.parametrize(
    "text", ["0", "0 GiB", "rtx", "RTX 4091", "A100", "", "-3", "nan", "24 TB", "-24GB", "inf"]
)
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--gpu"):
        card_of(text, where="--gpu")


@pytest.mark.parametrize(
    ("text", "told"),
    [("4090", "did you mean RTX 4090"), ("24564", "at most 2048 GiB"), ("3090 GB", "RTX 3090")],
)
def test_the_number_of_a_name_is_no_size(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        card_of(text, where="--gpu")


def test_a_name_of_two_sizes_asks_which() -> None:
    with pytest.raises(UserError, match="A100 40GB or A100 80GB"):
        card_of("A100", where="--gpu")


def test_every_card_of_the_table_is_found_by_its_name() -> None:
    assert all(card_of(card.name, where="--gpu") is card for card in CARDS)
    assert all(card.bytes_per_s and card.flops_per_s("float16") for card in CARDS[-6:])


@pytest.mark.parametrize(
    ("text", "name"),
    [("RTX 4091", "RTX 4090"), ("RTX 3090 Ti", "RTX 3090"), ("H1000", "H100"), ("A6000", "A6000")],
)
def test_near_names_are_told(text: str, name: str) -> None:
    with pytest.raises(UserError, match="did you mean .*" + name):
        card_of(text, where="--gpu")


@pytest.mark.parametrize(
    ("driver", "gib", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 23.99, "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", 80.0, "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", None, "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", 80.0, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 79.6, "H100"),
        ("NVIDIA H100 NVL", 93.6, "H100 NVL"),
        ("NVIDIA H200", 140.4, "H200"),
        ("NVIDIA RTX 6000 Ada Generation", 48.0, "RTX 6000 Ada"),
        ("Tesla T4", 15.0, "T4"),
        ("Tesla V100-SXM2-16GB", None, "V100 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 16.0, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 8.0, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16.0, None),
        ("NVIDIA A10G", 22.5, None),
    ],
)
def test_a_drivers_name_finds_its_card(driver: str, gib: float | None, name: str | None) -> None:
    found = card_seen(driver, gib)
    assert (found and found.name) == name
    if name is not None and gib is None:
        assert card_of(driver, where="--gpu").name == name
