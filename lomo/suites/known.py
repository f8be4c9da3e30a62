"""The suites that are known by name: how lm-eval asks and scores them, and what they need.

Prompts, extraction and metrics are lm-eval's own; here stands only what a plan and a caption have
to know before lm-eval is loaded. No few-shot count of the AdaLomo paper is known: the defaults are
lm-eval's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Where the prompts of the miniature stand; those of the others come with lm-eval.
MINIATURE = Path(__file__).with_name("miniature.yaml")


@dataclass(frozen=True)
class Suite:
    """One suite. `layout` names its files (lomo/suites/layouts.py).

    leaves: what lm-eval calls a task of it, `{}` for the subject; the suite's own name where it has
    no subjects. folder: of lm-eval's YAMLs below its `tasks`. metric, filter: what is reported of
    several. num_fewshot: lm-eval's default. most_fewshot: as many as its prompts hold, None where
    the files decide. max_gen_toks: tokens that an answer may take; None where none is generated.
    """

    title: str
    layout: str
    leaves: str
    folder: str
    metric: str
    filter: str
    num_fewshot: int
    most_fewshot: int | None
    max_gen_toks: int | None
    scoring: str
    runs_code: bool = False


_SUM = "the summed log-likelihood of"
SUITES = {
    "mmlu": Suite(
        *("MMLU", "mmlu", "mmlu_{}", "mmlu/default", "acc", "none"),
        num_fewshot=0,
        most_fewshot=None,
        max_gen_toks=None,
        scoring=f"by letter: {_SUM} A, B, C and D behind `Answer:`; the choices stand in the "
        "prompt",
    ),
    "bbh": Suite(
        *("BBH", "bbh", "bbh_cot_fewshot_{}", "bbh/cot_fewshot", "exact_match", "get-answer"),
        num_fewshot=3,
        most_fewshot=3,
        max_gen_toks=1024,
        scoring="by generation, chain of thought: what is written behind `the answer is`, to the "
        "letter",
    ),
    "gsm8k": Suite(
        *("GSM8K", "gsm8k", "gsm8k", "gsm8k", "exact_match", "strict-match"),
        num_fewshot=5,
        most_fewshot=None,
        max_gen_toks=256,
        scoring="by generation: the number behind `####` (strict); the last number of the text is "
        "told beside it (flexible)",
    ),
    "humaneval": Suite(
        *("HumanEval", "humaneval", "humaneval", "humaneval", "pass_at_1", "none"),
        num_fewshot=0,
        most_fewshot=0,
        max_gen_toks=1024,
        scoring="pass@1: one greedy completion a problem, run contained against its tests",
        runs_code=True,
    ),
    "truthfulqa_mc1": Suite(
        *("TruthfulQA MC1", "truthfulqa", "truthfulqa_mc1", "truthfulqa", "acc", "none"),
        num_fewshot=0,
        most_fewshot=0,
        max_gen_toks=None,
        scoring=f"by text: {_SUM} each answer; the one true answer has to be first. Six fixed "
        "questions stand before each",
    ),
    "truthfulqa_mc2": Suite(
        *("TruthfulQA MC2", "truthfulqa", "truthfulqa_mc2", "truthfulqa", "acc", "none"),
        num_fewshot=0,
        most_fewshot=0,
        max_gen_toks=None,
        scoring="by text: the share of the answers' probability that the true ones have. Six fixed "
        "questions stand before each",
    ),
    "miniature": Suite(
        *("miniature suite", "miniature", "miniature_{}", "", "acc", "none"),
        num_fewshot=0,
        most_fewshot=None,
        max_gen_toks=None,
        scoring=f"by text: {_SUM} each choice behind `Answer:`; the choices do not stand in the "
        "prompt",
    ),
}


@dataclass(frozen=True)
class Found:
    """A suite (key of SUITES) that a study names; `subject` where it names one of its subjects."""

    name: str
    suite: Suite
    subject: str | None = None


def find(name: str) -> Found | None:
    """The suite of that name, or whose subject it is (`mmlu_anatomy`); None for another task."""
    if name in SUITES:
        return Found(name, SUITES[name])
    for key, suite in SUITES.items():
        start, brace, _ = suite.leaves.partition("{}")
        if brace and name.startswith(start) and len(name) > len(start):
            subject = name.removeprefix(start)
            # `mmlu_stem` is a group of subjects, and `mmlu_pro` another suite: lm-eval's own names.
            if subject in SUBJECTS.get(suite.layout, ()):
                return Found(key, suite, subject)
    return None


MMLU_SUBJECTS = frozenset(
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology "
    "college_chemistry college_computer_science college_mathematics college_medicine "
    "college_physics computer_security conceptual_physics econometrics electrical_engineering "
    "elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_european_history high_school_geography "
    "high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology "
    "high_school_statistics high_school_us_history high_school_world_history human_aging "
    "human_sexuality international_law jurisprudence logical_fallacies machine_learning "
    "management marketing medical_genetics miscellaneous moral_disputes moral_scenarios "
    "nutrition philosophy prehistory professional_accounting professional_law "
    "professional_medicine professional_psychology public_relations security_studies sociology "
    "us_foreign_policy virology world_religions".split()
)
BBH_SUBJECTS = frozenset(
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages "
    "formal_fallacies geometric_shapes hyperbaton logical_deduction_five_objects "
    "logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation "
    "multistep_arithmetic_two navigate object_counting penguins_in_a_table "
    "reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects "
    "web_of_lies word_sorting".split()
)
SUBJECTS = {"mmlu": MMLU_SUBJECTS, "bbh": BBH_SUBJECTS}
