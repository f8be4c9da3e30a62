"""The crate: each file of an export is told with its hash, and only words of RO-Crate are used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import travelling

from analysis.export.write import export

NAME = "ro-crate-metadata.json"


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crate")
    results = travelling.written(folder / "made-up", travelling.study())
    export(results, folder / "out")
    return folder / "out"


def entities(crate: Path) -> dict[str, dict[str, Any]]:
    listed = json.loads((crate / NAME).read_text(encoding="utf-8"))["@graph"]
    found = {entity["@id"]: entity for entity in listed}
    assert len(found) == len(listed)
    return found


def test_every_file_is_a_part_with_its_hash(crate: Path) -> None:
    found = entities(crate)
    files = {
        path.relative_to(crate).as_posix(): path
        for path in crate.rglob("*")
        if path.is_file() and path.name != NAME
    }
    assert {part["@id"] for part in found["./"]["hasPart"]} == set(files)
    for name, path in files.items():
        told, data = found[name], path.read_bytes()
        assert told["sha256"] == hashlib.sha256(data).hexdigest()
        assert told["contentSize"] == str(len(data))
        assert told["description"]
        assert told["encodingFormat"] != "application/octet-stream"


def test_every_reference_leads_somewhere(crate: Path) -> None:
    found = entities(crate)
    outside = {"https://w3id.org/ro/crate/1.2"}

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["@id"]}
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    for entity in found.values():
        for key, value in entity.items():
            if key not in ("@id", "@type"):
                assert references(value) <= set(found) | outside, (entity["@id"], key)


def test_the_study_is_one_action_of_its_records(crate: Path) -> None:
    found = entities(crate)
    action, records = found["#study"], list((crate / "study" / "runs").rglob("record.json"))
    told = [json.loads(path.read_text()) for path in records]
    assert action["description"] == f"{len(told)} runs with a record, of {len(told)} planned"
    assert action["startTime"] == "2026-01-01T00:00:00+00:00"
    assert action["endTime"] == "2026-01-01T00:00:06+00:00"
    assert {"@id": "study/runs/train/mini/lomo/rte/s42/t0/record.json"} in action["result"]
    harness = found[action["instrument"]["@id"]]
    assert harness["version"] == "0" * 40
    needed = [found[part["@id"]] for part in harness["softwareRequirements"]]
    assert {(one["name"], one["version"]) for one in needed} == {
        ("torch", "2.13.0"),
        ("transformers", "5.23.0"),
    }


def test_another_reader_finds_the_same_and_knows_each_word(crate: Path) -> None:
    rocrate = pytest.importorskip("rocrate", reason=".ci/run installs it")
    from rocrate.rocrate import ROCrate

    read = ROCrate(str(crate))
    assert {entity.id for entity in read.get_entities()} == set(entities(crate))
    assert read.root_dataset["name"] == "A made-up study"
    context = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    words = set(json.loads(context.read_text(encoding="utf-8"))["@context"])
    used = {key for entity in entities(crate).values() for key in entity} - {"@id", "@type"}
    types = {str(entity["@type"]) for entity in entities(crate).values()}
    assert used | types <= words
