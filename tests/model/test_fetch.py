"""Fetching packages into a folder of their own, from a folder of wheels: no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from lomo.cli import main
from lomo.errors import UserError
from lomo.model import fetch
from lomo.tasks.instructions import read_instructions


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that needs another, and pip looking for packages beside it alone."""
    path = tmp_path / "wheels" / "oldcode-1.0-py3-none-any.whl"
    path.parent.mkdir()
    about = "Metadata-Version: 2.1\nName: oldcode\nVersion: 1.0\nRequires-Dist: torch<1\n"
    files = {
        "oldcode/__init__.py": "",
        "oldcode-1.0.dist-info/METADATA": about,
        "oldcode-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*files, "oldcode-1.0.dist-info/RECORD"])
        archive.writestr("oldcode-1.0.dist-info/RECORD", record)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def required(wheel: Path, digest: str) -> Path:
    path = wheel.parent.parent / "old.txt"
    path.write_text(f"# of then\noldcode==1.0 --hash=sha256:{digest}\n")
    return path


@pytest.mark.slow
def test_modelling_code_comes_without_what_it_needs(wheel: Path, tmp_path: Path) -> None:
    requirements = required(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    folder = tmp_path / "resources" / "old"
    folder.mkdir(parents=True)
    (folder / "left.py").write_text("")
    command = ["fetch", "modelling", "--requirements", str(requirements), "--out", str(folder)]
    assert main(command) == 0
    assert (folder / "old.txt").read_text() == requirements.read_text()
    names = {path.name for path in folder.iterdir()}
    assert names == {"oldcode", "oldcode-1.0.dist-info", "old.txt"}
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


@pytest.mark.slow
def test_another_hash_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"old\.txt: pip can't install it"):
        fetch.modelling(required(wheel, "0" * 64), tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_what_to_fetch_has_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "modelling", "--out", str(tmp_path / "old")]) == 2
    assert "--requirements" in capsys.readouterr().err


def test_alpaca_is_the_pinned_file_without_what_has_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [
        {"instruction": "Name a bird.", "input": "", "output": "A dove.", "text": "all of it"},
        {"instruction": "Be quiet.", "input": "now", "output": " ", "text": "all of it"},
    ]
    got = tmp_path / "got.parquet"
    pd.DataFrame(items).to_parquet(got)
    asked: dict[str, object] = {}

    def download(repository: str, file: str, **options: object) -> str:
        asked.update(options, repository=repository, file=file)
        return str(got)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    file = tmp_path / "resources" / "alpaca.json"
    with pytest.raises(UserError, match="its sha256 is"):
        fetch.alpaca(file)
    assert not file.exists()
    digest = hashlib.sha256(got.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "ALPACA", fetch.ALPACA._replace(sha256=digest))
    assert main(["fetch", "alpaca", "--out", str(file)]) == 0
    (item,) = read_instructions(file)
    assert (item.instruction, item.output) == ("Name a bird.", "A dove.")
    told = capsys.readouterr()
    assert "1 without an answer left out" in told.out + told.err
    assert asked["revision"] == fetch.ALPACA.revision and asked["repo_type"] == "dataset"
