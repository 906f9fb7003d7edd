"""Each file in `configs/finetune/`: data, model and trainer from it and a small copy of its dataset, and its head."""

import inspect
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from hub_copies import write_hub_dataset
from safetensors.torch import save_file
from torchvision_copies import accept_any_checksum, stand_in_for_h5py, write_copy, write_image

import mhc_vision.data
from mhc_vision.cli import main
from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.finetuning.cli import FinetuneCLI
from mhc_vision.layers import connection_parameters
from mhc_vision.training import ClassificationModule

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted((CONFIGS / "finetune").glob("*.yaml"))
FROM_A_RUN = ("cifar10_half", "digits")
OTHERS = (*FROM_A_RUN, "folder", "hfds")


Build = Callable[..., FinetuneCLI]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In place of the published ones, which would be fetched."""
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", depth=1).state_dict(), path)
    return path


@pytest.fixture
def build(weights: Path, tmp_path: Path) -> Build:
    """Makes data, model and trainer by the command in the head of a file, with a small model and other options."""

    def command_line(name: str, *more: str) -> FinetuneCLI:
        words = [
            *("--config", str(CONFIGS / "finetune" / f"{name}.yaml")),
            *("--config", str(CONFIGS / "connections" / "mhc.yaml")),
            *("--model.name", "test_vit", "--model.weights_file", str(weights), "--model.model_args.depth", "1"),
            *("--data.num_workers", "0", "--trainer.default_root_dir", str(tmp_path / "run"), *more),
        ]
        cli = FinetuneCLI(words, run=False)
        assert cli.model.hparams["num_classes"] == cli.datamodule.num_classes
        assert cli.model.hparams["metric"] == cli.datamodule.metric
        assert connection_parameters(cli.model.model)
        assert not (tmp_path / "run").exists()
        return cli

    return command_line


def test_every_dataset_has_a_file() -> None:
    assert [path.stem for path in FILES] == sorted([*SETS, *OTHERS])


@pytest.mark.parametrize("name", SETS)
def test_it_reads_a_copy(name: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch)
    stand_in_for_h5py(monkeypatch)
    write_copy(name, tmp_path / "data")
    data = build(name, "--data.root", str(tmp_path / "data"), "--data.complete", "false").datamodule
    assert data.hparams["dataset"] == name
    assert (data.in_chans, data.img_size, data.metric) == (3, 224, SETS[name].metric)
    assert [len(samples) > 0 for samples in (data.train_set, data.eval_set, data.test_set)] == [True] * 3
    assert data.train_set[0][0].shape == data.test_set[0][0].shape == (3, 224, 224)


def test_the_folder_has_a_test_split(build: Build, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                write_image(tmp_path / "data" / split / name / f"{index}.jpg", label)
    data = build("folder", "--data.root", str(tmp_path / "data")).datamodule
    assert [len(samples) for samples in (data.train_set, data.eval_set, data.test_set)] == [6, 4, 2]


def test_the_hub_dataset_is_read_by_name(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    # the columns and splits of ethz/food101
    write_hub_dataset(tmp_path / "parquet", "label", {"train": 4, "validation": 2})
    words = ("--data.dataset", f"hfds/{tmp_path / 'parquet'}", "--data.root", str(tmp_path / "cache"))
    data = build("hfds", *words).datamodule
    assert data.class_names == ["pie", "soup"]
    assert [len(samples) for samples in (data.train_set, data.eval_set, data.test_set)] == [4, 2, 2]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_head_has_the_command_and_the_official_numbers(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    assert f"mhc-vision finetune --config configs/finetune/{path.name} --config configs/connections/mhc.yaml" in head
    if path.stem in FROM_A_RUN:
        assert "--model.name runs/" in head
        assert "Hardware: " in head
        return
    assert f"--data.root DATA --trainer.default_root_dir runs/{path.stem}-mhc" in head
    assert all(f"{word}: " in head for word in ("Hardware", "Recipe", "Expected"))
    if path.stem in SETS and path.stem != "sun397":
        numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", head)}
        assert {split.num_images for split in SETS[path.stem].splits.values()} <= numbers
        by_class = "mean of the classes' accuracies" in head
        assert by_class == (SETS[path.stem].metric == "mean_per_class")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_states_nothing_that_is_a_default_anyway(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert list(config) == ["model", "data", "trainer"]
    data_class = getattr(mhc_vision.data, config["data"]["class_path"])
    bases = [inspect.signature(cls.__init__).parameters for cls in data_class.__mro__ if cls is not object]
    for name, value in config["data"]["init_args"].items():
        parameter = next(parameters[name] for parameters in bases if name in parameters)
        assert value != parameter.default, name
    training = inspect.signature(ClassificationModule.__init__).parameters
    for name, value in config["model"].items():
        assert name not in training or value != training[name].default, name


def test_the_halves_of_cifar10_are_pretrained_on_and_fine_tuned_on(tmp_path: Path) -> None:
    halves = {name: CONFIGS / folder / "cifar10_half.yaml" for name, folder in (("first", ""), ("second", "finetune"))}
    classes = {name: yaml.safe_load(path.read_text())["data"]["init_args"]["classes"] for name, path in halves.items()}
    assert len({*classes["first"], *classes["second"]}) == 10
    for split, label in itertools.product(("train", "test"), range(10)):
        name = [*classes["first"], *classes["second"]][label]
        for index in range(2):
            write_image(tmp_path / "cifar10" / split / name / f"{index}.jpg", label)
    common = (
        *("--data.root", str(tmp_path / "cifar10"), "--data.batch_size", "5"),
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir"),
    )
    main(["train", "--config", str(halves["first"]), *common, str(tmp_path / "plain")])
    start = str(tmp_path / "plain" / "checkpoints" / "last.ckpt")
    overlay = ("--config", str(CONFIGS / "connections" / "mhc.yaml"))
    main(
        [
            *("finetune", "--config", str(halves["second"]), *overlay, *common, str(tmp_path / "run")),
            *("--model.name", start),
        ]
    )
    record = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["InMemoryFolderDataModule"]
    assert record["class_names"] == classes["second"]
