import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torchvision.io import write_jpeg

from mhc_vision.cli import main
from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.jsonl_logger import JsonlLogger
from mhc_vision.training.pipeline.strategy import PipelineStrategy

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
OVERLAYS = sorted((CONFIGS / "connections").glob("*.yaml"))
DESIGN_NAMES = ("alt_up", "attn_res", "mudd", "parallel", "post_norm", "resi_dual")
DESIGNS = [CONFIGS / "connections" / f"{design}.yaml" for design in DESIGN_NAMES]
CONNECTIONS = [overlay for overlay in OVERLAYS if overlay not in DESIGNS]
IMAGENET = sorted((CONFIGS / "imagenet").glob("*.yaml"))
RECIPES = [CONFIGS / "digits.yaml", CONFIGS / "cifar10.yaml", CONFIGS / "cifar10_proxy.yaml", *IMAGENET]
# each file once at least: no option of a large recipe meets one of an overlay that the small recipes do not have
MHC = CONFIGS / "connections" / "mhc.yaml"
PAIRS = [*itertools.product(RECIPES[:2], OVERLAYS), *((recipe, MHC) for recipe in RECIPES[2:])]
DEBUG = CONFIGS / "debug.yaml"
STRATEGIES = sorted((CONFIGS / "strategies").glob("*.yaml"))
LOGGERS = sorted((CONFIGS / "loggers").glob("*.yaml"))
MATRICES = sorted((CONFIGS / "compare").glob("*.yaml"))
# test_finetune_configs.py is about these
FINETUNE = [CONFIGS / "cifar10_half.yaml", *sorted((CONFIGS / "finetune").glob("*.yaml"))]
METHODS = sorted(CONFIGS.glob("*/methods/*.yaml"))
# test_segmentation_configs.py is about these
SEGMENTATION = sorted((CONFIGS / "segmentation").glob("*.yaml"))
ABLATIONS = sorted((CONFIGS / "compare").glob("ablation_*.yaml"))


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                image = torch.randint(256, (3, 40, 48), generator=generator, dtype=torch.uint8)
                write_jpeg(image, str(root / split / name / f"{index}.jpg"))
    return root


def _data_root(recipe: Path, image_folder: Path) -> list[str]:
    options = yaml.safe_load(recipe.read_text())["data"]["init_args"]
    return ["--data.root", str(image_folder)] if "root" in options else []


def test_every_file_is_a_recipe_or_an_overlay_known_here():
    known = [*RECIPES, *OVERLAYS, DEBUG, *STRATEGIES, *LOGGERS, *MATRICES, *FINETUNE, *SEGMENTATION, *METHODS]
    assert sorted(CONFIGS.rglob("*.yaml")) == sorted(known)
    assert [path.stem for path in CONNECTIONS] == ["baseline", "dhc", "ihc", "krom_hc", "mhc", "mhc_lite", "shc"]


@pytest.mark.parametrize(
    "path",
    [*RECIPES, *SEGMENTATION, *OVERLAYS, *METHODS, DEBUG, *STRATEGIES, *LOGGERS, *MATRICES],
    ids=lambda path: path.stem,
)
def test_every_file_opens_with_what_it_is_for(path):
    lines = path.read_text().splitlines()
    head = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    if path in (*OVERLAYS, *METHODS):
        assert len(lines) <= 10
        assert head
    elif path in ABLATIONS:
        assert f"mhc-vision compare configs/{path.relative_to(CONFIGS)} --out" in head
        assert all(f"# {word}: " in head for word in ("Ablation", "Hardware", "Source", "Expected"))
        content = yaml.safe_load(path.read_text())
        runs = len(content["recipes"]) * len(content["arms"]) * len(content["seeds"])
        assert f"CPU, {runs} runs" in head
    elif path in (*RECIPES, *SEGMENTATION, DEBUG):
        assert f"--config configs/{path.relative_to(CONFIGS)}" in head
    elif path in MATRICES:
        assert f"mhc-vision compare configs/{path.relative_to(CONFIGS)}" in head
        assert "Expected:" in head
    else:
        assert head.startswith("# Overlay: ")
    if path in (*RECIPES, *SEGMENTATION, *MATRICES):
        assert "Hardware:" in head


@pytest.mark.parametrize(("recipe", "overlay"), PAIRS, ids=lambda path: path.stem)
def test_every_recipe_builds_its_data_model_and_trainer(recipe, overlay, image_folder, tmp_path):
    cli = TrainCLI(
        [
            *("--config", str(recipe), "--config", str(overlay), *_data_root(recipe, image_folder)),
            # one block instead of all and no GPU: what is left is every option the files set
            *("--model.model_args.depth", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
            *("--trainer.strategy", "auto", "--trainer.default_root_dir", str(tmp_path)),
        ],
        run=False,
    )
    connected = any("connection" in name for name, _ in cli.model.named_parameters())
    assert connected == (overlay.stem == "alt_up" or (overlay in CONNECTIONS and overlay.stem != "baseline"))
    images = torch.zeros(1, cli.datamodule.in_chans, cli.datamodule.img_size, cli.datamodule.img_size)
    with torch.no_grad():
        assert cli.model.eval()(images).shape == (1, cli.datamodule.num_classes)
    assert not list(tmp_path.iterdir())


def _with_overlay(overlay: Path, tmp_path: Path, *words: str) -> TrainCLI:
    recipe = ("--config", str(CONFIGS / "digits.yaml"), "--config", str(overlay))
    return TrainCLI([*recipe, *words, "--trainer.default_root_dir", str(tmp_path)], run=False)


def test_strategies_are_built(tmp_path):
    devices = ("--trainer.devices", "2")
    strategies = {path.stem: _with_overlay(path, tmp_path, *devices).trainer.strategy for path in STRATEGIES}
    assert isinstance(strategies["fsdp2"], ModelParallelStrategy)
    assert isinstance(strategies["pipeline"], PipelineStrategy)
    assert (strategies["pipeline"].pipeline_size, strategies["pipeline"].num_microbatches) == (2, 8)
    assert isinstance(strategies["bf16_gradients"], DDPStrategy)
    assert strategies["bf16_gradients"]._ddp_comm_hook is bf16_compress_hook


def test_loggers_write_into_the_run_directory(tmp_path):
    loggers = {path.stem: _with_overlay(path, tmp_path).trainer.loggers for path in LOGGERS}
    for jsonl, other in loggers.values():
        assert isinstance(jsonl, JsonlLogger)
        assert Path(other.save_dir) == tmp_path
    loggers["tensorboard"][1].log_metrics({"train/loss": 1.0}, step=3)
    loggers["tensorboard"][1].save()
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    "path", [path for path in MATRICES if "command: finetune" not in path.read_text()], ids=lambda path: path.stem
)
def test_every_arm_of_a_matrix_is_a_model_of_its_own(path, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    matrix = load_matrix(path)
    built = {}
    # each task and each arm once: what one sets, the other does not
    once = [cell for cell in matrix.cells if cell.task == matrix.tasks[0] or cell.arm == matrix.baseline]
    for cell in [cell for cell in once if cell.seed == matrix.seeds[0]]:
        words = [*cell.words(tmp_path / "run")[1:], *_data_root(ROOT / cell.configs[0], image_folder)]
        # one block: what is left is every option the files set
        words += ["--model.model_args.depth", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
        cli = TrainCLI(words, run=False)
        assert cli.datamodule.seed == cell.seed
        images = torch.zeros(1, cli.datamodule.in_chans, cli.datamodule.img_size, cli.datamodule.img_size)
        with torch.no_grad():
            assert cli.model.eval()(images).isfinite().all()
        built[cell.task, cell.arm] = repr((cell.task, sorted(cli.model.hparams.items())))
    assert len(set(built.values())) == len(built)
    # else one connection is compared with itself
    assert matrix.baseline.startswith("baseline") or len({cell.configs[-1] for cell in matrix.cells}) < 3
    assert not list(tmp_path.iterdir())


def test_cifar10_trains_on_a_folder_kept_in_memory(image_folder, tmp_path):
    main(
        [
            *("--config", str(CONFIGS / "cifar10.yaml"), "--config", str(CONFIGS / "connections" / "mhc.yaml")),
            *("--data.root", str(image_folder), "--data.batch_size", "4", "--model.model_args.depth", "1"),
            *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--trainer.default_root_dir", str(tmp_path)),
        ]
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["epochs"]) == (4, 2)
    # eight images
    assert summary["metrics"]["val/top1"] in [count / 8 for count in range(9)]


@pytest.mark.parametrize("recipe", IMAGENET, ids=lambda path: path.stem)
def test_the_batch_of_a_step_is_the_papers(recipe):
    config = yaml.safe_load(recipe.read_text())
    images = config["data"]["init_args"]["batch_size"] * config["trainer"]["devices"]
    images *= config["trainer"].get("accumulate_grad_batches", 1)
    batches = {"hc": 4096, "plain": 1024, "300ep": 1024, "deit": 1024, "deit3": 2048}
    assert images == batches[recipe.stem.rpartition("_")[2]]


FAMILIES = [
    "base_patch16_224_hc",
    "small_patch16_224_better_plain",
    "small_patch16_224_deit",
    "small_patch16_224_deit3",
]
ALL = [(family, overlay.stem) for family in FAMILIES for overlay in CONNECTIONS]
QUICK = [(FAMILIES[1], "mhc"), (FAMILIES[3], "dhc")]


@pytest.mark.parametrize(
    ("family", "connection"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in ALL],
    ids=["-".join(pair) for pair in ALL],
)
def test_every_family_trains_under_the_debug_overlay(family, connection, tmp_path):
    main(
        [
            *("--config", str(CONFIGS / "imagenet" / f"vit_{family}.yaml")),
            *("--config", str(CONFIGS / "connections" / f"{connection}.yaml"), "--config", str(DEBUG)),
            *("--model.model_args.depth", "1", "--trainer.limit_train_batches", "20"),
            *("--trainer.default_root_dir", str(tmp_path / "run")),
        ]
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 20
    # constraints of mHC
    family_of = {"baseline": None, "ihc": "mhc", "mhc_lite": "mhc", "krom_hc": "mhc"}
    assert summary["connection"] == family_of.get(connection, connection)
    assert 0 <= summary["metrics"]["val/top1"] <= 1
