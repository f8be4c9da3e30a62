"""How forgiving each method is in the miniature: accuracy over learning rates and base models.

    python benchmarks/learning_rates.py FOLDER --seeds 42 43 44 [--methods sgd adamw]

Each method is trained at the learning rate that the default study names, at a third and at three
times of it, on every task, as the pipeline trains. A seed is that of the base model's pretraining
and of the training. The world is another than the study's: nothing is chosen by what is reported.
Printed are means over tasks of the accuracy on the test split at the epoch chosen on dev, in
percent, and the lowest task; below a method's rows stands what lies within 5 points of its best.
What has a record in FOLDER is not run again. Some 4 minutes of one core a seed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # read when it is imported

from lomo.model.registry import ModelEntry
from lomo.record.clock import Clock
from lomo.run.execute import execute, finished
from lomo.run.pretrain import make_base_model
from lomo.specs import TrainSpec
from lomo.study.config import load_study
from lomo.study.plan import Plan, make_plan
from lomo.system.processes import quieten
from lomo.tasks.miniature import write_superglue, write_text

STUDY = Path("config/tiny.yaml")
FACTORS = (1 / 3, 1.0, 3.0)
RATES = ("learning_rate", "lomo_learning_rate")
WORLD = 3  # the seed of the world on which the study's settings were found


def main() -> None:
    """Reads the command line, trains what has no record and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--methods", nargs="+")
    options = parser.parse_args()
    quieten()
    plan = make_plan(load_study(STUDY), source=str(STUDY))
    write_world(plan, options.folder)
    specs = specs_of(plan, options.folder)
    for method in options.methods or dict.fromkeys(spec.method for spec in specs):
        own = [spec for spec in specs if spec.method == method]
        means: dict[float, list[float]] = {}
        for factor in (1.0,) if method == "zero_shot" else FACTORS:
            for seed in options.seeds:
                values = [accuracy(spec, factor, seed, plan, options.folder) for spec in own]
                means.setdefault(factor, []).append(mean(values))
                rates = {name: f"{own[0].hyper[name] * factor:.2g}" for name in rates_of(own[0])}
                print(f"{method} {rates} seed {seed}: {mean(values):.1f}, lowest {min(values):.1f}")
        flat = [factor for factor, of in means.items() if not far(of, means)]
        print(f"{method}: within 5 points of its best, every seed: x {flat}", flush=True)


def write_world(plan: Plan, folder: Path) -> None:
    """The text and the tasks of the study's sizes, in another world."""
    sizes = plan.study.generated
    if not (folder / "text.txt").exists():
        write_superglue(
            folder / "tasks", seed=WORLD, num_train=sizes.num_train, num_val=sizes.num_val
        )
        write_text(folder / "text.txt", seed=WORLD, num_sentences=sizes.num_sentences)


def specs_of(plan: Plan, folder: Path) -> list[TrainSpec]:
    """Of each method and task one run of Table 3, whatever its seeds."""
    found: dict[tuple[str, str], TrainSpec] = {}
    for run_id in plan.sections["superglue"]:
        spec = plan.runs[run_id]
        assert isinstance(spec, TrainSpec)
        found.setdefault((spec.method, spec.task), spec)
    return [spec.model_copy(update={"data_path": str(folder / "tasks")}) for spec in found.values()]


def rates_of(spec: TrainSpec) -> list[str]:
    """The names of the method's learning rates: they are multiplied together."""
    return [name for name in RATES if name in spec.hyper]


def accuracy(spec: TrainSpec, factor: float, seed: int, plan: Plan, folder: Path) -> float:
    """The reported accuracy in percent, of a new run or of its record; 0 where it diverged."""
    rates = {name: float(spec.hyper[name]) * factor for name in rates_of(spec)}
    base = base_of(plan.models[spec.model], seed, folder)
    spec = spec.model_copy(
        update={"hyper": {**spec.hyper, **rates}, "seed": seed, "model_path": str(base)}
    )
    own = folder / "runs" / spec.method / f"{factor:.2f}" / f"s{seed}" / spec.task
    own.mkdir(parents=True, exist_ok=True)
    record = finished(spec, own) or execute(spec, own, Clock(started_at=time.time()))
    return 100 * record.result.value if record.result else 0.0


def base_of(entry: ModelEntry, seed: int, folder: Path) -> Path:
    """The folder of the base model that was pretrained with this seed."""
    base = folder / f"base-{seed}"
    if not base.exists():
        make_base_model(entry, folder / "text.txt", base, seed=seed, progress=False)
    return base


def far(values: list[float], means: dict[float, list[float]]) -> bool:
    """Whether some seed's mean is more than 5 points below that seed's best."""
    best = [max(of_seed) for of_seed in zip(*means.values(), strict=True)]
    return any(top - value > 5 for top, value in zip(best, values, strict=True))


if __name__ == "__main__":
    main()
