"""The table and the figure of what fits, from a made-up file."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.cli import main
from analysis.paper.fits import read_fits
from analysis.tables.fits import table_fits
from analysis.text.render import environment
from analysis.text.style import FORMATS

GIB = 2**30
MODELS, METHODS, COUNTS, SIZES = ["small", "large"], ["lomo", "adamw", "lora"], [1, 2], [16, 24.5]


def cell(model: str, method: str, num_gpus: int, gpu_gib: float) -> dict[str, Any]:
    """LOMO always fits, AdamW on two cards of the large size; LoRA can't be run."""
    fits = method == "lomo" or (method == "adamw" and num_gpus == 2 and gpu_gib > 16)
    return {
        "model": model,
        "method": method,
        "num_gpus": num_gpus,
        "gpu_gib": gpu_gib,
        "batch_size": 7 * num_gpus if fits else 0,
        "peak_bytes": 0 if method == "lora" else GIB,
        "missing_bytes": 0 if fits else 3 * GIB + 1,
        "account": None if method == "lora" else "simulated",
        "refused": "it has no q_proj" if method == "lora" else None,
    }


def write_facts(folder: Path) -> Path:
    facts = {
        "sequence_length": 1024,
        "reserve_gib": 1.0,
        "models": MODELS,
        "methods": METHODS,
        "provenance": {},
        "cells": [cell(*place) for place in itertools.product(MODELS, METHODS, COUNTS, SIZES)],
    }
    (folder / "what_fits.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_facts(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with its table and figure, for the tests that only read them."""
    folder = write_facts(tmp_path_factory.mktemp("drawn"))
    assert main(["fits", "--results", str(folder)]) == 0
    return folder


def test_table_and_figure_come_out_in_every_format(drawn: Path) -> None:
    made = {str(path.relative_to(drawn)) for path in drawn.glob("*/*")}
    tables = {f"tables/what_fits.{suffix}" for suffix in ("csv", "md", "tex", "html")}
    assert made == tables | {f"figures/what_fits.{suffix}" for suffix in FORMATS}


def test_the_table_tells_fewest_cards_batches_and_what_is_missing(drawn: Path) -> None:
    lines = (drawn / "tables" / "what_fits.md").read_text().splitlines()
    dash, minus = "\N{EN DASH}", "\N{MINUS SIGN}"
    assert "| model | method | 16 GiB | 24.5 GiB |" in lines
    assert f"|  | AdamW | {dash} | 2 |" in lines
    assert "|  | LOMO | 1 | 1 |" in lines
    # More than 3 GiB are missing: rounded up.
    assert f"| 16 | 1 | refused | {minus}3.1 GiB | 7 |" in lines
    assert "|  | 2 | refused | 14 | 14 |" in lines
    assert "- Refused: small, LoRA, 1 cards: it has no q_proj." in lines
    with (drawn / "tables" / "what_fits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(MODELS) * len(METHODS) * len(COUNTS) * len(SIZES)
    assert {row["missing_bytes"] for row in rows} == {"0", str(3 * GIB + 1)}


def test_the_fewest_cards(folder: Path) -> None:
    found = read_fits(folder)
    assert found.fewest_cards("small", "adamw", 24.5) == 2
    assert found.fewest_cards("small", "adamw", 16) is None


def test_two_drawings_are_byte_identical(drawn: Path, folder: Path) -> None:
    main(["fits", "--results", str(folder)])
    for path in (drawn / "figures").iterdir():
        assert path.read_bytes() == (folder / "figures" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"cells": []}', '{"cells": [{}]}'])
def test_a_broken_file_is_named(
    content: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "what_fits.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert main(["fits", "--results", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.count("error:") == 1
    assert "what_fits.json" in told and "snakemake --cores all fits" in told


def test_a_file_that_lacks_a_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "what_fits.json"
    facts = json.loads(path.read_text())
    del facts["cells"][5]
    path.write_text(json.dumps(facts))
    assert main(["fits", "--results", str(folder)]) == 2
    assert "some of its cells are missing" in capsys.readouterr().err


def test_the_published_table_is_made_of_its_file() -> None:
    published = Path(__file__).parents[2] / "results" / "published" / "what-fits"
    table = table_fits(read_fits(published))
    rendered = environment().get_template("table.md.jinja").render(table=table)
    assert (published / "tables" / "what_fits.md").read_text() == rendered


def test_the_table_needs_no_torch(loaded: set[str]) -> None:
    assert "analysis.tables.fits" in loaded and "torch" not in loaded
