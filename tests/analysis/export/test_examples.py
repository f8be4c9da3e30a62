"""An exported example reads as lm-eval renders it for scoring."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.export.examples import examples
from lomo.specs import TaskSpec
from lomo.tasks.miniature.superglue import write_superglue
from lomo.tasks.superglue import GIVEN


def spec_of(folder: Path, task: str) -> TaskSpec:
    drawn = {"num_train": 20, "num_dev": 5, "num_test": 30, "sample_seed": 3}
    return TaskSpec.model_construct(task=task, data_path=folder.as_posix(), **drawn)


@pytest.mark.slow
@pytest.mark.parametrize("task", GIVEN)
def test_prompt_answers_and_label_are_lm_evals(task: str, tmp_path: Path) -> None:
    from lomo.run.evaluate import load_task

    write_superglue(tmp_path, seed=1, num_train=60, num_val=40)
    spec = spec_of(tmp_path, task)
    own, theirs = examples(tmp_path, spec), load_task(spec, "test")
    documents = list(theirs.eval_docs)
    assert len(own) == len(documents)
    for example, document in zip(own, documents, strict=True):
        assert example.prompt == theirs.fewshot_context(document, 0)
        assert list(example.answers) == theirs.doc_to_choice(document)
        assert example.label == theirs.doc_to_target(document)


def test_the_hash_of_an_example_is_of_what_is_asked_and_what_is_right(tmp_path: Path) -> None:
    write_superglue(tmp_path, seed=1, num_train=60, num_val=40)
    found = examples(tmp_path, spec_of(tmp_path, "copa"))
    assert len({example.digest for example in found}) == len(found) == 30
    assert all(len(example.answers) == 2 for example in found)
