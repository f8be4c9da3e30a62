"""Text into tokens: what a tokenizer adds, merges or draws changes no score without a word."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lomo.errors import UserError
from lomo.model.weights import load_tokenizer
from lomo.record.clock import Clock
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.superglue import read_documents
from lomo.tasks.tokens import Encoded, Encoder, check_tokens, text_encoder

END = "<|end_story|>"
PROMPT, ANSWERS = 'Tom has a hat.\nDoes this mean that "it is his"?\nAnswer:', [" Yes", " No"]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def edited(test_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the real model's folder with other tokenizer files."""

    def make(edit: Edit = lambda _: None, *, config: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(test_data / "weights" / "tinystories-656k", folder)
        for name, change in (
            ("tokenizer.json", edit),
            ("tokenizer_config.json", lambda data: data.update(config or {})),
        ):
            data = json.loads((folder / name).read_text(encoding="utf-8"))
            change(data)
            (folder / name).write_text(json.dumps(data), encoding="utf-8")
        return folder

    return make


# transformers builds a LLaMA tokenizer anew from parts of the file; this one is as the file says.
PLAIN_CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}


def encoder_of(folder: Path) -> Encoder:
    return text_encoder(load_tokenizer(str(folder)), str(folder))


def special(token: str, number: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": number}}


def template(single: list[Any], *tokens: tuple[str, int]) -> Edit:
    names = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in tokens}
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    processor = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*pair, *single[-1:]],
        "special_tokens": names,
    }
    return lambda data: data.update(post_processor=processor)


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
START = ("<|start_story|>", 1)
BOTH = template([special(START[0]), TEXT, special(END)], START, (END, 2))
APPENDING = {
    "by its flag": (BOTH, {"add_eos_token": True}),
    "by its post-processor": (BOTH, PLAIN_CLASS),
    "twice": (
        template([special(START[0]), TEXT, *[special(END)] * 2], START, (END, 2)),
        PLAIN_CLASS,
    ),
}


@pytest.mark.parametrize("how", APPENDING)
def test_an_appended_end_token_changes_nothing(edited: Any, how: str) -> None:
    edit, config = APPENDING[how]
    folder = edited(edit, config=config)
    assert load_tokenizer(str(folder)).encode("a")[-1] == 2, "or the case shows nothing"
    untouched = edited(config=PLAIN_CLASS if config is PLAIN_CLASS else {})
    given, expected = (encoder_of(f).encode(PROMPT, ANSWERS) for f in (folder, untouched))
    assert given == expected
    assert given.prompt[0] == 1 and 2 not in given.prompt + given.answers[0] + given.answers[1]


@pytest.mark.parametrize(
    ("single", "prefix"),
    [([TEXT], []), ([TEXT, special(END)], []), ([special(END), special(START[0]), TEXT], [2, 1])],
)
def test_what_a_tokenizer_puts_in_front_stays(
    edited: Any, single: list[Any], prefix: list[int]
) -> None:
    encoder = encoder_of(edited(template(single, START, (END, 2)), config=PLAIN_CLASS))
    plain = encoder.tokenizer.encode(PROMPT + ANSWERS[0], add_special_tokens=False)
    encoded = encoder.encode(PROMPT, ANSWERS)
    assert [*encoded.prompt, *encoded.answers[0]] == [*prefix, *plain]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zero_shot", "lomo"])
def test_a_run_on_it_scores_and_trains_to_the_bit_as_without(
    edited: Any, study_dict: dict[str, Any], method: str, tmp_path: Path
) -> None:
    found = []
    for folder in (edited(), edited(*APPENDING["by its flag"][:1], config={"add_eos_token": True})):
        section = {**study_dict["superglue"], "models": [str(folder)], "methods": [method]}
        study = Study.model_validate({**study_dict, "superglue": section, "memory": None})
        spec, *_ = make_plan(study, source="unit.yaml").runs.values()
        out = tmp_path / "runs" / folder.name
        record = execute(spec, out, Clock())
        assert record.status == "ok", record.evidence
        samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        training = record.training and (record.training.first_loss, record.training.last_loss)
        found.append((training, samples))
        assert all(len(set(sample["log_likelihoods"])) == 2 for sample in samples)
    assert found[0] == found[1]


def test_random_and_rewritten_tokens_are_refused(edited: Any) -> None:
    random = edited(lambda data: data["model"].update(dropout=0.1), config=PLAIN_CLASS)
    with pytest.raises(UserError, match="split at random") as caught:
        encoder_of(random)
    assert caught.value.where == f"{random}/tokenizer.json"


def split_over_the_boundary(encoder: Encoder, encoded: Encoded, prompt: str, answers: Any) -> None:
    """All candidates follow one prompt; with it, each is the natural tokens of the whole text."""
    for answer, tokens in zip(answers, encoded.answers, strict=True):
        whole = encoder.tokenizer.encode(prompt + answer, add_special_tokens=False)
        assert [*encoded.prompt, *tokens] == [*encoder.prefix, *whole]
    firsts = {tokens[0] for tokens in encoded.answers}
    if len(firsts) == 1:  # shared, since it holds the prompt's last characters too
        head = encoder.tokenizer.decode(encoded.prompt, skip_special_tokens=True)
        assert len(head) < len(prompt)


def test_no_character_of_an_answer_is_lost_where_tokens_reach_over_its_start(
    test_data: Path,
) -> None:
    """`because He` is no `because` and `He` to this tokenizer, which merges over blanks."""
    folder = test_data / "weights" / "tinystories-656k"
    encoder = encoder_of(folder)
    documents = read_documents(test_data / "superglue", "copa", "val")
    num_lost = 0
    for document in documents:
        prompt = f"{document['premise']} because"
        answers = [f" {document[name]}" for name in ("choice1", "choice2")]
        encoded = encoder.encode(prompt, answers)
        split_over_the_boundary(encoder, encoded, prompt, answers)
        # Cut at the prompt's own number of tokens, as lm-eval does it, some begin too late.
        length = len(encoder.tokenizer.encode(prompt))
        for answer in answers:
            late = encoder.tokenizer.decode(encoder.tokenizer.encode(prompt + answer)[length:])
            num_lost += len(late) < len(answer) - 1
    assert num_lost > 0, "or the data show nothing"


@pytest.mark.parametrize(("prompt", "answers"), [(PROMPT, ANSWERS), ("one two ", ["a", "b"])])
def test_where_no_token_reaches_over_it_is_lm_evals_split(
    model_folder: Path, prompt: str, answers: list[str]
) -> None:
    from lm_eval.models.huggingface import HFLM

    encoder = encoder_of(model_folder)
    encoded = encoder.encode(prompt, answers)
    lm = HFLM.__new__(HFLM)
    lm.tokenizer, lm.add_bos_token, lm.custom_prefix_token_id = encoder.tokenizer, None, None
    lm.backend = "causal"
    for answer, tokens in zip(answers, encoded.answers, strict=True):
        assert (encoded.prompt, tokens) == lm._encode_pair(prompt, answer)


def test_a_special_token_in_a_text_is_text(test_data: Path) -> None:
    encoder = encoder_of(test_data / "weights" / "tinystories-656k")
    encoded = encoder.encode(f"{START[0]} Once{END} more", [f" a{END}", " b"])
    assert encoded.prompt[0] == 1 and encoded.prompt.count(1) == 1
    assert 2 not in [*encoded.prompt, *encoded.answers[0]]


def test_something_stands_before_the_first_scored_token(model_folder: Path) -> None:
    encoder = encoder_of(model_folder)
    encoded = encoder.encode("", ["yes", "no"])
    assert encoded.prompt == [encoder.end_id] and all(encoded.answers)


@pytest.mark.parametrize(
    ("encoded", "problem"),
    [
        (Encoded([3], [[4], [4]], 1), "two answers get the same tokens"),
        (Encoded([3], [[4], []], 1), "an answer gets no token"),
        (Encoded([3, 4000], [[4], [5]], 2), "does not fit the model: example 7 gets 4000"),
        (Encoded([3], [[4], [4001]], 2), "does not fit the model: example 7 gets 4001"),
    ],
)
def test_tokens_that_no_score_can_be_taken_of_are_refused(
    model_folder: Path, encoded: Encoded, problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        check_tokens(encoder_of(model_folder), encoded, num_rows=400, where="example 7")
    assert caught.value.where == f"{model_folder}/tokenizer.json"


def test_an_end_token_without_an_embedding_is_refused(test_data: Path) -> None:
    encoder = encoder_of(test_data / "weights" / "tinystories-656k")
    with pytest.raises(UserError, match="does not fit the model: its end token is 2"):
        check_tokens(encoder, Encoded([1], [[0]], 0), num_rows=2, where="example 0")


def byte_level(*, add_prefix_space: bool, trim_offsets: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


def without_borders() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\N{LOWER ONE EIGHTH BLOCK}"), normalizers.NFD()]
    )
    return made


KINDS: dict[str, tuple[Callable[[], Tokenizer], type]] = {
    "byte level": (
        lambda: byte_level(add_prefix_space=False, trim_offsets=False),
        trainers.BpeTrainer,
    ),
    "trimmed": (lambda: byte_level(add_prefix_space=True, trim_offsets=True), trainers.BpeTrainer),
    "word pieces in lower case": (word_piece, trainers.WordPieceTrainer),
    "unigrams": (unigram, trainers.UnigramTrainer),
    "without borders": (without_borders, trainers.BpeTrainer),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_tokenizer_is_split_once_and_as_lm_eval_does_where_it_can(
    kind: str, test_data: Path
) -> None:
    """Random real texts: nothing is lost, nothing stands twice, one prompt serves all answers."""
    make, trainer = KINDS[kind]
    made, lines = make(), (test_data / "text" / "grimms_fairy_tales.txt").read_text().split("\n\n")
    options = {"unk_token": "<unk>"} if kind == "unigrams" else {}
    made.train_from_iterator(
        lines[:150],
        trainer(vocab_size=600, special_tokens=["<unk>", "</s>"], show_progress=False, **options),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    encoder = text_encoder(fast, kind)
    draw, as_lm_eval = random.Random(0), 0
    for _ in range(150):
        words = " ".join(draw.choice(lines)[:300].split() + ["na\u00efve", "\U0001f600\u0301"])
        words = words.replace("e", draw.choice(["e", "\u00e9", "e\u0301"]))
        prompt, answers = words, [f" {draw.choice(['Yes', 'so', 'it'])}", " no, \u00e9t\u00e9!"]
        encoded = encoder.encode(prompt, answers)
        context = fast.encode(prompt, add_special_tokens=False)
        wholes = [fast.encode(prompt + answer, add_special_tokens=False) for answer in answers]
        for whole, tokens in zip(wholes, encoded.answers, strict=True):
            assert [*encoded.prompt, *tokens] == [*encoder.prefix, *whole] and tokens
        if all(whole[: len(context)] == context for whole in wholes):
            as_lm_eval += 1
            assert encoded.prompt == [*encoder.prefix, *context]
    assert as_lm_eval > (0 if kind == "without borders" else 140)
