"""Downloads: the only module that uses the network, called by the fetch rules alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from lomo.errors import UserError
from lomo.model.gguf.folder import write_folder
from lomo.model.gguf.package import take_file
from lomo.model.gguf.source import need_reader, read_source
from lomo.model.registry import ModelEntry, local_entry
from lomo.model.weights import weights_sha256
from lomo.system.files import read_text, whole, write_text
from lomo.tasks.superglue import GIVEN, TASKS, read_documents

SUPERGLUE_URL = "https://dl.fbaipublicfiles.com/glue/superglue/data/v2/{name}.zip"


class _Pinned(NamedTuple):
    hub: str
    revision: str
    file: str
    sha256: str


ALPACA = _Pinned(
    "tatsu-lab/alpaca",
    "dce01c9b08f87459cf36a430d809084718273017",
    "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
    "06391b656a06fd3fb9d213160ef2398796c3b7f3dc75ef1e3ced30d461517073",
)
# Lines of the official files: a download of another size is not SuperGLUE v2.
NUM_DOCUMENTS = {
    "rte": (2490, 277),
    "boolq": (9427, 3270),
    "wsc": (554, 104),
    "wic": (5428, 638),
    "copa": (400, 100),
}
NUM_MULTIRC_PASSAGES = (456, 83)
WANTED = ["*.safetensors", "*.json", "tokenizer.model"]


def model(entry: ModelEntry, folder: Path) -> None:
    """The files of a hub model at its pinned revision, in `folder`; fetched.json is last."""
    # A study runs with the hub switched off; this rule is where it is switched on.
    os.environ["HF_HUB_OFFLINE"] = "0"
    from huggingface_hub import snapshot_download

    if entry.hub is None or entry.revision is None:
        raise UserError("is no model of the hub", where=entry.name)
    snapshot_download(entry.hub, revision=entry.revision, local_dir=folder, allow_patterns=WANTED)
    if not any(folder.glob("*.safetensors")):
        raise UserError("the hub has no safetensors at this revision", where=f"{entry.hub}")
    local_entry(folder, where=f"{entry.hub}")  # raises UserError where it is not whole
    manifest = {
        "hub": entry.hub,
        "revision": entry.revision,
        "weights_sha256": weights_sha256(str(folder)),
    }
    write_text(folder / "fetched.json", json.dumps(manifest, indent=1) + "\n")


def packaged_model(entry: ModelEntry, folder: Path) -> None:
    """The model of a GGUF file that a package carries, in `folder`; fetched.json is last.

    Raises UserError where the file is another than the pinned one, or not of the architecture by
    which the model is predicted.
    """
    assert entry.package is not None and entry.file is not None
    need_reader(entry.name)  # before anything is downloaded
    with whole(folder) as new, tempfile.TemporaryDirectory(prefix="lomo-fetch-") as unpacked:
        file = take_file(entry.package, entry.file, Path(unpacked))
        source = read_source(file, sha256=entry.sha256)
        note = write_folder(source, new, architecture=entry.architecture)
        manifest = {
            "package": entry.package,
            "file": entry.file,
            "weights_sha256": note["weights_sha256"],
        }
        write_text(new / "fetched.json", json.dumps(manifest, indent=1) + "\n")


def superglue(folder: Path) -> None:
    """The official JSONL files of the six tasks. Raises UserError if a file is not as it was."""
    for task in GIVEN:
        files = TASKS[task]
        with urllib.request.urlopen(SUPERGLUE_URL.format(name=files.folder)) as answer:
            archive = zipfile.ZipFile(io.BytesIO(answer.read()))
        for split in ("train", "val"):
            _unpack(archive, files.folder, split, folder)
        _check_size(folder, task)


def alpaca(file: Path) -> str:
    """Stanford Alpaca from the hub, in `file`; a line that tells how many items it has.

    Items without an answer are left out: there is nothing to learn from them. Raises UserError for
    another file than the pinned one.
    """
    import pandas as pd
    from huggingface_hub import hf_hub_download

    got = hf_hub_download(
        ALPACA.hub,
        ALPACA.file,
        repo_type="dataset",
        revision=ALPACA.revision,
        local_files_only=False,
    )
    with Path(got).open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != ALPACA.sha256:
        raise UserError(
            f"its sha256 is {found}",
            where=f"{ALPACA.hub}: {ALPACA.file}",
            allowed=ALPACA.sha256,
            fix="delete it from the hub's local cache and start again",
        )
    items = pd.read_parquet(got)[["instruction", "input", "output"]].to_dict("records")
    answered = [item for item in items if item["output"].strip()]
    text = "[\n" + ",\n".join(json.dumps(item) for item in answered) + "\n]\n"
    write_text(file, text)
    left_out = len(items) - len(answered)
    return f"{len(answered)} instructions in {file}, {left_out} without an answer left out"


def modelling(requirements: Path, folder: Path) -> None:
    """The packages of `requirements`, and nothing that they depend on, in `folder`.

    Each by version and hash, as a wheel: no code of theirs is run. The copy of `requirements` is
    written last.
    """
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"]
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    with whole(folder) as new:
        done = subprocess.run(
            [*command, *options, "--target", str(new), "-r", str(requirements)], check=False
        )
        if done.returncode:
            raise UserError(
                f"pip can't install it (exit code {done.returncode})",
                where=str(requirements),
                fix="see its message; it needs the network, or a folder of wheels (PIP_FIND_LINKS)",
            )
    write_text(folder / requirements.name, read_text(requirements))


def _unpack(archive: zipfile.ZipFile, name: str, split: str, folder: Path) -> None:
    target = folder / name / f"{split}.jsonl"
    with (
        whole(target) as temporary,
        archive.open(f"{name}/{split}.jsonl") as source,
        temporary.open("wb") as file,
    ):
        shutil.copyfileobj(source, file)


def _check_size(folder: Path, task: str) -> None:
    for index, split in enumerate(("train", "val")):
        if task == "multirc":
            path = folder / TASKS[task].folder / f"{split}.jsonl"
            found, expected = len(path.read_text().splitlines()), NUM_MULTIRC_PASSAGES[index]
        else:
            found, expected = len(read_documents(folder, task, split)), NUM_DOCUMENTS[task][index]
        if found != expected:
            raise UserError(
                f"{found} lines in {TASKS[task].folder}/{split}.jsonl, not {expected}",
                where=SUPERGLUE_URL.format(name=TASKS[task].folder),
                fix="the download is not SuperGLUE v2; fetch it by hand and give the folder",
            )
