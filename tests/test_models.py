"""The registry of models: what an entry may say, and what a local one keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from lomo.errors import UserError
from lomo.inputs import model_files
from lomo.models import local_entry, registry


def test_a_local_entry_keeps_what_it_says_of_the_paper(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"my-7b: {{weights: local, path: {model_folder}, paper: 7B}}")
    entry = registry(path)["my-7b"]
    assert (entry.name, entry.paper, entry.weights) == ("my-7b", "7B", "local")


def test_a_key_that_the_weights_do_not_use_is_refused(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"m: {{weights: random, path: {model_folder}, architecture: {{a: 1}}}}")
    with pytest.raises(UserError, match="does not use path"):
        registry(path)


def test_the_weights_of_a_local_model_are_inputs_of_its_runs(model_folder: Path) -> None:
    files = model_files(local_entry(model_folder, where="test"), "study")
    assert {Path(file).name for file in files} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
