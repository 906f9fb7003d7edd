"""The matrix of a comparison: what is compared, on what, and with which seeds, from one YAML file."""

import fnmatch
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text
from mhc_vision.checks import check_choice, nearest
from mhc_vision.comparison.plan.equal_time import EqualTime, parse_equal_time
from mhc_vision.comparison.plan.settings import (
    Settings,
    check_different,
    check_mapping,
    parse_settings,
    read_config,
    whole_number,
)
from mhc_vision.run_directory import FIGURES
from mhc_vision.yaml_files import read_yaml

KEYS = (
    "name", "command", "recipes", "datasets", "arms", "baseline", "equal_time", "exclude", "num_streams", "seeds",
    "set", "threads", "gpus", "slurm",
)  # fmt: skip
TRAIN, FINETUNE = COMMANDS = ("train", "finetune")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Cell:
    """One run of a matrix.

    Attributes:
        command: Of `mhc-vision`, `train` or `finetune`.
        task: Name of the recipe, with that of the dataset where the matrix has datasets.
        arm: Name of what is compared.
        seed: Of weights, data order and augmentation: arms of one seed see the same data.
        configs: Configuration files, in the order they are given to the command.
        options: Options put on top of the files.
        threads: CPU threads of the process.
    """

    command: str
    task: str
    arm: str
    seed: int
    configs: tuple[str, ...]
    options: Mapping[str, Any] = field(hash=False)
    threads: int

    @property
    def name(self) -> str:
        """`task/arm/seed0`, which is the run directory below that of the comparison, too."""
        return f"{self.task}/{self.arm}/seed{self.seed}"

    def words(self, run_dir: Path) -> list[str]:
        """The words after `mhc-vision` and the command to start this run, or to go on with it."""
        words = ["fit"]
        for config in self.configs:
            words += ["--config", config]
        for key, value in self.options.items():
            # one word: what begins with a minus sign is not always taken for a value
            words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
        words += ["--seed_everything", str(self.seed), "--data.seed", str(self.seed)]
        words += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        return [*words, "--trainer.default_root_dir", str(run_dir)]

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, as plain JSON: the contents of its files, not their names."""
        configs = [read_config(config) for config in self.configs]
        record = {
            # records from when there was no other command lack it
            **({} if self.command == TRAIN else {"command": self.command}),
            "task": self.task,
            "arm": self.arm,
            "seed": self.seed,
            "threads": self.threads,
            "configs": configs,
            "options": dict(self.options),
        }
        # dates, infinities and the like become what JSON makes of them, on both sides of a comparison
        plain: dict[str, Any] = json.loads(json_text(json.loads(json.dumps(record, default=str))))
        return plain


@dataclass(frozen=True)
class Matrix:
    """A comparison.

    Attributes:
        name: Of the comparison.
        command: Of `mhc-vision`, `train` or `finetune`.
        recipes: Names of recipes; those of fine-tuning are its methods.
        datasets: Names of datasets; none where recipes say what the data is.
        arms: Names of what is compared.
        baseline: The arm that the others are measured against.
        seeds: Of each arm.
        cells: All runs, seed by seed, so that a comparison that is stopped has whole pairs; none of what is excluded.
        threads: CPU threads of a run.
        gpus: GPUs of a run, on a machine that has any.
        equal_time: Arms that get a baseline with their time; those are not among `arms` before `with_equal_time`.
        slurm: SLURM's arguments of a run's job, for `--launcher slurm`, which checks them.
    """

    name: str
    command: str
    recipes: tuple[str, ...]
    datasets: tuple[str, ...]
    arms: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    threads: int
    gpus: int
    equal_time: EqualTime = field(default_factory=EqualTime)
    slurm: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of recipes, or of all pairs of recipe and dataset."""
        if not self.datasets:
            return self.recipes
        return tuple(task_name(recipe, dataset) for recipe in self.recipes for dataset in self.datasets)

    def excluded_arms(self, task: str) -> tuple[str, ...]:
        """Arms that have no runs on a task because the matrix excludes them there."""
        there = {cell.arm for cell in self.cells if cell.task == task}
        return tuple(arm for arm in self.arms if arm not in there)


def task_name(recipe: str, dataset: str) -> str:
    """The name of the task that a recipe on a dataset is."""
    return f"{recipe}-{dataset}"


def load_matrix(path: Path, options: Mapping[str, Any] | None = None) -> Matrix:
    """Reads a matrix.

    Args:
        path: YAML file. Paths in it are relative to the working directory, as on the command line of `train`.
        options: Put on top of the `set` of the matrix, for all runs.

    Raises:
        ValueError: No such file, an unknown key, one that is there twice, a value of another type than expected, a
            configuration file that is not there or broken, two runs with one name or one content, no baseline, or a
            pattern of what is excluded that fits nothing, or leaves nothing of a task or an arm.
    """
    if not path.is_file():
        raise ValueError(f"matrix: got {path}, expected a YAML file")
    content = read_yaml(path)
    try:
        return parse_matrix(content, options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_matrix(content: Any, options: Mapping[str, Any] | None = None) -> Matrix:
    """The matrix that the content of a YAML file describes; see `load_matrix`."""
    content = check_mapping("matrix", content, KEYS, required=("name", "recipes", "arms", "seeds"))
    name = _check_name("name", content["name"])
    command = content.get("command", TRAIN)
    check_choice("command", command, COMMANDS)
    recipes = parse_settings("recipes", content["recipes"])
    datasets = parse_settings("datasets", content["datasets"]) if "datasets" in content else {}
    tasks = _tasks(recipes, datasets, dataset_first=command == FINETUNE)
    arms = _with_streams(parse_settings("arms", content["arms"]), content.get("num_streams"))
    for entry in (*tasks, *arms):
        _check_name("recipes, datasets and arms", entry)
    if FIGURES in tasks:
        raise ValueError(
            f"recipes: got the name {FIGURES!r}, expected another: it is the folder of the report's figures"
        )
    baseline = str(content.get("baseline", next(iter(arms))))
    if baseline not in arms:
        hint = nearest(baseline, arms)
        raise ValueError(f"baseline: got {baseline!r}, expected one of the arms: {', '.join(arms)}{hint}")
    seeds = _check_seeds(content["seeds"])
    threads = whole_number("threads", content.get("threads", 1), lowest=1)
    gpus = whole_number("gpus", content.get("gpus", 1), lowest=0)
    common = Settings((), check_mapping("set", content.get("set", {})))
    last = Settings((), dict(options or {}))
    pairs = {
        (task, arm): common.then(task_settings).then(arm_settings).then(last)
        for (task, task_settings), (arm, arm_settings) in itertools.product(tasks.items(), arms.items())
    }
    pairs = _without(content.get("exclude", []), pairs)
    for (task, arm), settings in pairs.items():
        settings.check(f"{task}/{arm}")
    check_different(pairs)
    cells = [
        Cell(command, task, arm, seed, settings.configs, settings.options, threads)
        for seed, ((task, arm), settings) in itertools.product(seeds, pairs.items())
    ]
    return Matrix(
        name=name,
        command=command,
        recipes=tuple(recipes),
        datasets=tuple(datasets),
        arms=tuple(arms),
        baseline=baseline,
        seeds=seeds,
        cells=tuple(cells),
        threads=threads,
        gpus=gpus,
        equal_time=parse_equal_time(content["equal_time"], arms, baseline, gpus)
        if "equal_time" in content
        else EqualTime(),
        slurm=check_mapping("slurm", content.get("slurm", {})),
    )


def _tasks(
    recipes: Mapping[str, Settings], datasets: Mapping[str, Settings], dataset_first: bool
) -> dict[str, Settings]:
    """Each recipe on each dataset; `dataset_first` puts the recipe on top, as it is a method of fine-tuning."""
    if not datasets:
        return dict(recipes)
    pairs = []
    for (recipe, method), (dataset, data) in itertools.product(recipes.items(), datasets.items()):
        pairs.append((task_name(recipe, dataset), data.then(method) if dataset_first else method.then(data)))
    return _unique("recipes and datasets", pairs)


def _without(patterns: Any, pairs: Mapping[tuple[str, str], Settings]) -> dict[tuple[str, str], Settings]:
    """The pairs of task and arm that no pattern fits."""
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"exclude: got {patterns!r}, expected a list of patterns, such as [connections-*/baseline]")
    excluded = set()
    for pattern in patterns:
        fitting = {(task, arm) for task, arm in pairs if fnmatch.fnmatchcase(f"{task}/{arm}", pattern)}
        if not fitting:
            known = ", ".join(f"{task}/{arm}" for task, arm in pairs)
            raise ValueError(f"exclude: got {pattern!r}, expected a pattern that fits one of {known}")
        excluded |= fitting
    kept = {pair: settings for pair, settings in pairs.items() if pair not in excluded}
    for place, what in enumerate(("task", "arm")):
        if empty := sorted({pair[place] for pair in pairs} - {pair[place] for pair in kept}):
            raise ValueError(
                f"exclude: got all of the {what} {empty[0]}, expected some left; leave it out of the matrix instead"
            )
    return kept


def _with_streams(arms: Mapping[str, Settings], num_streams: Any) -> dict[str, Settings]:
    """Each arm once for each number of streams, plain ones (with `model.connection: null`) only once."""
    if num_streams is None:
        return dict(arms)
    if not isinstance(num_streams, list) or not num_streams:
        raise ValueError(f"num_streams: got {num_streams!r}, expected a list of whole numbers, such as [2, 4]")
    numbers = [whole_number("num_streams", number, lowest=1) for number in num_streams]
    if all(settings.connection() is None for settings in arms.values()):
        raise ValueError(f"num_streams: got {num_streams}, expected an arm that sets model.connection")
    pairs: list[tuple[str, Settings]] = []
    for name, settings in arms.items():
        if settings.connection() is None:
            pairs.append((name, settings))
        else:
            pairs += [
                (f"{name}-n{number}", settings.then(Settings((), {"model.num_streams": number}))) for number in numbers
            ]
    return _unique("arms and num_streams", pairs)


def _unique(what: str, pairs: Sequence[tuple[str, Settings]]) -> dict[str, Settings]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what}: got two called {', '.join(twice)}, expected names of their own")
    return dict(pairs)


def _check_name(what: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{what}: got the name {name!r}, expected letters, digits, '.', '_' and '-' (it names folders)"
        )
    return name


def _check_seeds(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"seeds: got {seeds!r}, expected a list of whole numbers, such as [0, 1, 2]")
    numbers = tuple(whole_number("seeds", seed, lowest=0) for seed in seeds)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds: got {seeds}, expected each seed once: two runs would have one name")
    return numbers
