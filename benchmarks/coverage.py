"""How often the statistics of made-up studies are right: coverage of intervals, false verdicts.

python benchmarks/coverage.py [--studies 2000]

A made-up study has methods, seeds, tasks and examples. Being right on an example depends on the
task's level, the example, the method and the example together, the seed (its base model, and the
method on it), and luck; in some worlds a training stays at chance now and then. Seeds and examples
are drawn anew in each study; what is true is the mean over very many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.statistics.difference import Difference
from analysis.statistics.paired import Pairs, bootstrap, difference
from analysis.statistics.several import holm

Right = NDArray[np.float64]  # methods x seeds x tasks x examples


@dataclass(frozen=True)
class World:
    """What studies are drawn from; spreads are in logits, `stuck` is how often a training of a
    method and task stays at chance."""

    name: str
    num_seeds: int = 3
    num_tasks: int = 6
    num_examples: int = 200
    group: int = 1  # examples of one passage
    skills: tuple[float, ...] = (1.5, 1.5)
    of_example: float = 1.0
    of_example_and_method: float = 0.7
    of_seed: float = 0.3
    of_seed_and_task: float = 0.4
    stuck: float = 0.0

    def drawn(self, draw: np.random.Generator) -> Right:
        """Which answers of one study are right."""
        methods, shape = len(self.skills), (self.num_seeds, self.num_tasks, self.num_examples)
        num_groups = -(-self.num_examples // self.group)
        of_group = np.repeat(np.arange(num_groups), self.group)[: self.num_examples]

        def normal(*size: int) -> NDArray[np.float64]:
            return draw.standard_normal(size)

        logit = np.array(self.skills)[:, None, None, None] + np.zeros((methods, *shape))
        logit += np.linspace(-0.5, 0.5, self.num_tasks)[:, None]
        logit += self.of_example * normal(1, 1, self.num_tasks, num_groups)[..., of_group]
        own = normal(methods, 1, self.num_tasks, num_groups)[..., of_group]
        logit += self.of_example_and_method * own
        logit += self.of_seed * normal(methods, self.num_seeds, 1, 1)
        logit += self.of_seed_and_task * normal(methods, self.num_seeds, self.num_tasks, 1)
        at_chance = draw.random((methods, self.num_seeds, self.num_tasks, 1)) < self.stuck
        share = np.where(at_chance, 0.5, expit(logit))
        return (draw.random((methods, *shape)) < share).astype(float)

    def groups(self) -> NDArray[np.int64] | None:
        """The passage of each example."""
        return None if self.group == 1 else np.arange(self.num_examples) // self.group

    def pairs(self, right: Right, first: int, second: int) -> list[Pairs]:
        """Two methods of a study, task by task."""
        apart = right[first] - right[second]
        return [Pairs(apart[:, task], self.groups()) for task in range(self.num_tasks)]


BASE = World("as the default study")
WORLDS = (
    BASE,
    replace(BASE, name="two seeds", num_seeds=2),
    replace(BASE, name="ten seeds", num_seeds=10),
    replace(BASE, name="seeds hardly differ", of_seed=0.02, of_seed_and_task=0.05),
    replace(BASE, name="examples hardly matter", of_example=0.0, of_example_and_method=0.0),
    replace(
        BASE,
        name="examples differ most",
        of_example_and_method=3.0,
        of_seed=0.05,
        of_seed_and_task=0.05,
    ),
    replace(BASE, name="unequal", skills=(2.5, 0.8)),
    replace(BASE, name="passages of eight", group=8),
    replace(BASE, name="few examples", num_examples=30),
    replace(BASE, name="one task", num_tasks=1),
    replace(BASE, name="some stay at chance", stuck=0.15),
    replace(BASE, name="half stay at chance, one task", stuck=0.5, num_tasks=1),
)


def studies(world: World, number: int, seed: int = 1) -> Iterator[Right]:
    """So many studies of a world, always the same."""
    draw = np.random.default_rng(seed)
    for _ in range(number):
        yield world.drawn(draw)


def truth(world: World) -> float:
    """By how much the first method is above the second, over very many seeds and examples."""
    if world.skills[0] == world.skills[1]:
        return 0.0
    many = replace(world, num_seeds=200, num_examples=5000, num_tasks=1)
    levels = np.linspace(-0.5, 0.5, world.num_tasks)
    draw = np.random.default_rng(0)
    found = []
    for level in levels:
        skills = tuple(skill + level + 0.5 for skill in world.skills)  # linspace of one is -0.5
        right = replace(many, skills=skills).drawn(draw)
        found.append((right[0] - right[1]).mean())
    return float(np.mean(found))


def coverage(world: World, number: int) -> tuple[float, float]:
    """How often the interval of the difference holds what is true, and its mean width."""
    true = truth(world)
    found = [difference(world.pairs(right, 0, 1)).interval for right in studies(world, number)]
    ends = np.array(found)
    held = (ends[:, 0] <= true) & (true <= ends[:, 1])
    return float(held.mean()), float((ends[:, 1] - ends[:, 0]).mean())


def of_examples(world: World, number: int) -> float:
    """How often the bootstrap over examples, seeds as they are, is beside the closed form: the
    mean ratio of the two widths."""
    ratios = []
    for index, right in enumerate(studies(world, number)):
        pairs = world.pairs(right, 0, 1)
        low, high = bootstrap(pairs, index)
        ratios.append((high - low) / (2 * difference(pairs).alone.half(0.025)))
    return float(np.mean(ratios))


def false_verdicts(world: World, number: int, num_methods: int = 7) -> dict[str, float]:
    """In how many studies of methods that are all alike something is decided: the first against
    each other on average; all pairs; a winner in a column of the table."""
    alike = replace(world, skills=(world.skills[0],) * num_methods)
    found = {"one against all": 0, "all pairs": 0, "bold": 0}
    for right in studies(alike, number):
        of: dict[tuple[int, int], Difference] = {
            pair: difference(alike.pairs(right, *pair))
            for pair in combinations(range(num_methods), 2)
        }
        ps = [known.p for known in of.values()]
        found["one against all"] += decides(ps[: num_methods - 1])
        found["all pairs"] += decides(ps)
        found["bold"] += decides([_of_winner(alike, right, column) for column in _columns(alike)])
    return {name: times / number for name, times in found.items()}


def decides(ps: list[float | None]) -> bool:
    """Whether one of a table's claims is decided."""
    return any(p is not None and p <= 0.05 for p in holm(ps))


def _columns(world: World) -> list[list[int]]:
    """The tasks of each column of the table, and the average over all."""
    return [*([task] for task in range(world.num_tasks)), list(range(world.num_tasks))]


def _of_winner(world: World, right: Right, tasks: list[int]) -> float:
    """The largest p of a column's best method against the others."""
    means = right[:, :, tasks].mean(axis=(1, 2, 3))
    best = int(means.argmax())
    found = []
    for other in range(len(means)):
        if other != best:
            pairs = world.pairs(right, best, other)
            found.append(difference([pairs[task] for task in tasks]).p or 0.0)
    return max(found)


def main() -> None:
    """Prints a line for each world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    number = parser.parse_args().studies
    print("| world | coverage (%) | width (points) | bootstrap / closed form |")
    print("| --- | ---: | ---: | ---: |")
    for world in WORLDS:
        held, width = coverage(world, number)
        ratio = of_examples(world, number // 20)
        print(f"| {world.name} | {100 * held:.1f} | {100 * width:.1f} | {ratio:.3f} |", flush=True)
    print(
        "\n| world of seven methods, all alike | one against all (%) | all pairs (%) | bold (%) |"
    )
    print("| --- | ---: | ---: | ---: |")
    for world in WORLDS:
        shares = [f"{100 * share:.1f}" for share in false_verdicts(world, number // 4).values()]
        print(f"| {world.name} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
