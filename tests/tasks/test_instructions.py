"""Files in Alpaca's layout: read item by item, told where they are wrong, and drawn apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.tasks.instructions import Instruction, draw, read_instructions

GOOD = {"instruction": "Name a bird.", "input": "", "output": "A dove."}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "items.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def told(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as refused:
        read_instructions(written(folder, text))
    return str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([GOOD, GOOD]),
        json.dumps([GOOD, GOOD], indent=2),
        "\n".join([json.dumps(GOOD)] * 2),
        json.dumps(GOOD, indent=2) * 2,
        "\ufeff" + json.dumps([GOOD, GOOD]).replace(", ", ",\r\n"),
        json.dumps([GOOD | {"id": 7, "text": "the prompt of the hub's export"}, GOOD]),
    ],
)
def test_a_list_and_lines_are_read_alike(text: str, tmp_path: Path) -> None:
    items = read_instructions(written(tmp_path, text))
    assert [item.number for item in items] == [1, 2]
    assert {(item.instruction, item.input, item.output) for item in items} == {
        ("Name a bird.", "", "A dove.")
    }


def test_an_input_may_be_missing(tmp_path: Path) -> None:
    text = json.dumps([{"instruction": "Name a bird.", "output": "A dove."}])
    (item,) = read_instructions(written(tmp_path, text))
    assert item.input == ""


def test_the_prompts_are_those_of_stanford_alpaca() -> None:
    without = Instruction(1, "Name {input}.", " ", "x").prompt
    assert without == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName {input}.\n\n### Response:"
    )
    with_input = Instruction(1, "Name {input}.", "a {instruction}", "x").prompt
    assert with_input == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName {input}.\n\n### Input:\na {instruction}\n\n### Response:"
    )


def changed(**fields: Any) -> str:
    """A list whose second item, on its third line, is changed."""
    items = [GOOD, {key: value for key, value in (GOOD | fields).items() if value != "gone"}]
    return "[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed(output="gone"), "the example lacks the field 'output'"),
        (changed(instruction="gone"), "the example lacks the field 'instruction'"),
        (changed(output=""), "the example has no text in the field 'output'"),
        (changed(output=" \n"), "the example has no text in the field 'output'"),
        (changed(instruction=""), "the example has no text in the field 'instruction'"),
        (changed(output=["a", "b"]), "the field 'output' holds a list, no text"),
        (changed(input=["a", "b"]), "the field 'input' holds a list, no text"),
        (changed(instruction=7), "the field 'instruction' holds a number, no text"),
        (changed(input=None), "the field 'input' holds null, no text"),
        (changed(output={"text": "x"}), "the field 'output' holds an object, no text"),
        (changed(output=True), "the field 'output' holds a flag, no text"),
        (changed(output="\ud83d"), "half of a character"),
        (changed(history=[["a", "b"]]), "the field 'history' is not empty"),
        (changed(system="Be kind."), "the field 'system' is not empty"),
        ("[\n" + json.dumps(GOOD) + ',\n["a"]]', "the item is a list of lists"),
        ("[\n" + json.dumps(GOOD) + ',\n"a"]', "the item is no object"),
        ("[\n" + json.dumps(GOOD) + ',\n{"output": "a", "output": "b"}]', "'output' stands twice"),
        ("[\n" + json.dumps(GOOD) + ',\n{"output": "a" "b"}]', "Expecting ',' delimiter at line 3"),
    ],
)
def test_what_is_wrong_with_an_item_is_told_with_its_place(
    text: str, expected: str, tmp_path: Path
) -> None:
    message = told(tmp_path, text)
    assert f"{tmp_path}/items.json: item 2 (line 3)" in message and expected in message


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("‘", "’"), ("'", "'")],
)
def test_another_languages_quotes_are_named(opening: str, closing: str, tmp_path: Path) -> None:
    text = json.dumps([GOOD, GOOD]).replace(
        '"output": "A dove."', f"{opening}output{closing}: {opening}A dove.{closing}"
    )
    message = told(tmp_path, text)
    code = f"U+{ord(opening):04X}"
    assert f"{opening} ({code}) stands at line 1, column " in message
    assert "item 1 (line 1)" in message and 'between "' in message


def test_quotes_within_a_text_are_no_mistake(tmp_path: Path) -> None:
    text = json.dumps([GOOD | {"output": "“A dove”, said «he»."}], ensure_ascii=False)
    assert read_instructions(written(tmp_path, text))[0].output == "“A dove”, said «he»."


@pytest.mark.parametrize("at", [-1, -2, -5, 60, 75, 20])
def test_a_file_that_is_cut_is_told_anywhere(at: int, tmp_path: Path) -> None:
    text = json.dumps([GOOD, GOOD])[:at]
    assert "cut" in told(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file holds no item"),
        ("[]", "the file holds no item"),
        (" \n", "the file holds no item"),
        ("[" + json.dumps(GOOD) + "] " + json.dumps(GOOD), "behind the end of the list"),
        ("[" + json.dumps(GOOD) + " " + json.dumps(GOOD) + "]", "no comma and no end of the list"),
        ('{"data": 1}', "lacks the field 'instruction'"),
        (b"\xff\xfe[\x00", "UTF-16 text"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"PAR1....", "a parquet file"),
        (b'[{"instruction": "\xe9"', "not UTF-8 text: byte 19 is 0xe9"),
        ("[" * 100_000, "nested too deep"),
        ('[{"a": ' + "9" * 5000 + "}]", "thousands of digits"),
    ],
)
def test_a_file_of_another_kind_is_told(text: str | bytes, expected: str, tmp_path: Path) -> None:
    assert expected in told(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_instructions(tmp_path / "none.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(UserError, match="a broken link to"):
        read_instructions(tmp_path / "link.json")


def items(number: int, *, prompts: int) -> str:
    return json.dumps(
        [GOOD | {"instruction": f"Name {i % prompts}.", "output": str(i)} for i in range(number)]
    )


def test_the_parts_are_apart_and_the_seed_draws_them(tmp_path: Path) -> None:
    path = written(tmp_path, items(100, prompts=100))
    asked = {"num_train": 30, "num_dev": 10, "num_test": 15}
    drawn = draw(path, seed=0, **asked)
    sizes = [len(part) for part in (drawn.train, drawn.dev, drawn.test)]
    assert sizes == [30, 10, 15] and drawn.num_repeated == 0
    numbers = [item.number for part in (drawn.train, drawn.dev, drawn.test) for item in part]
    assert len(set(numbers)) == 55
    assert draw(path, seed=0, **asked) == drawn
    assert draw(path, seed=1, **asked).test != drawn.test
    # What is held out is the same whatever else is asked for.
    other = draw(path, seed=0, num_train=5, num_dev=0, num_test=15)
    assert other.test == drawn.test and other.dev == []


def test_a_small_file_gives_a_fifth_to_each_part_that_is_scored(tmp_path: Path) -> None:
    path = written(tmp_path, items(25, prompts=25))
    drawn = draw(path, num_train=100, num_dev=100, num_test=100, seed=0)
    assert [len(part) for part in (drawn.test, drawn.dev, drawn.train)] == [5, 4, 16]


def test_no_prompt_that_is_scored_is_trained_on(tmp_path: Path) -> None:
    path = written(tmp_path, items(60, prompts=20))  # each three times, with other answers
    drawn = draw(path, num_train=100, num_dev=5, num_test=5, seed=0)
    prompts = [{item.prompt for item in part} for part in (drawn.train, drawn.dev, drawn.test)]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert drawn.num_repeated == 60 - 5 - 5 - len(drawn.train) > 0


@pytest.mark.parametrize("num_dev", [0, 2])
def test_too_few_prompts_that_differ_are_told(num_dev: int, tmp_path: Path) -> None:
    path = written(tmp_path, items(10, prompts=1))
    with pytest.raises(UserError, match="10 items with too few prompts that differ"):
        draw(path, num_train=5, num_dev=num_dev, num_test=2, seed=0)


def test_real_instructions_are_read(test_data: Path) -> None:
    for name, number in (("alpaca_sample", 1000), ("alpaca_en_demo_sample", 600)):
        found = read_instructions(test_data / "instruct" / f"{name}.json")
        assert len(found) == number and all(item.output.strip() for item in found)
        assert any(item.input for item in found) and not all(item.input for item in found)
