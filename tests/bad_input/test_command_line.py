"""Mistakes on the command line: each ends with status 2 and a short message, without a traceback or a page of usage."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mhc_vision.cli import main
from mhc_vision.training.cli import TrainCLI

CONFIGS = Path(__file__).parents[2] / "configs"

Refused = Callable[[Sequence[str]], str]


@pytest.fixture(autouse=True, scope="module")
def parsers_built_once() -> Iterator[None]:
    """Most of the time of a row would be spent on the parser."""
    built: dict[type, dict[str, Any]] = {}
    build = TrainCLI.setup_parser

    def build_once(cli: TrainCLI, *arguments: Any) -> None:
        if type(cli) not in built:
            build(cli, *arguments)
            names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
            built[type(cli)] = {name: vars(cli)[name] for name in names}
        vars(cli).update(built[type(cli)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainCLI, "setup_parser", build_once)
        yield


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that has to be refused; returns its message."""

    def run(words: Sequence[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        assert "usage:" not in printed.err + printed.out
        assert "Traceback" not in printed.err
        message: list[str] = printed.err[printed.err.index("mhc-vision: ") :].splitlines()
        assert len(message) <= 3
        assert all(len(line) <= 500 for line in message)
        return "\n".join(message)

    return run


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with some files that words of the command line name."""
    files = {
        "typo.yaml": "model:\n  conection: mhc\n",
        "section.yaml": "modle:\n  lr: 1\n",
        "flat.yaml": "lr: 1\n",
        "trainer.yaml": "trainer:\n  max_epoch: 3\n",
        "data.yaml": "data:\n  class_path: DigitsDataModule\n  init_args:\n    batchsize: 3\n",
        "callback.yaml": "trainer:\n  callbacks:\n  - class_path: EMA\n    init_args: {deca: 1}\n",
        "callbacks.yaml": "trainer:\n  callbacks:\n  - class_path: EMMA\n",
        "value.yaml": "model:\n  lr: fast\n",
        "broken.yaml": "model:\n  lr: [1\n",
        "twice.yaml": "model:\n  connection: mhc\nmodel:\n  lr: 0.1\n",
        "fit.yaml": "fit:\n  model:\n    lr: 1\n",
        "only_data.yaml": "class_path: DigitsDataModule\ninit_args: {batch_sise: 3}\n",
        "only_model.yaml": "lrr: 3\n",
        "matrix.yaml": "name: tiny\nrecipies: {}\n",
        "twice_matrix.yaml": "name: tiny\nname: small\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "cat" / "0.png")
    (tmp_path / "taken").write_text("a file\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


T = "--trainer."
# behind `--config configs/digits.yaml`
OPTIONS: dict[str, tuple[list[str], str]] = {
    # names of options
    "option": (["--model.conection", "mhc"], "--model.conection: there is no such option; nearest: --model.connection"),
    "option-equals": (
        ["--model.conection=mhc"],
        "--model.conection: there is no such option; nearest: --model.connection",
    ),
    "option-beginning": (
        [T + "max_epoch", "3"],
        "--trainer.max_epoch: there is no such option; nearest: --trainer.max_epochs",
    ),
    "option-section": (["--modle.lr", "3"], "--modle.lr: there is no such option; nearest: --model.lr"),
    "option-of-train": (["--ckpt_pat", "last"], "--ckpt_pat: there is no such option; nearest: --ckpt_path"),
    "option-seed": (["--seed_everythin", "1"], "nearest: --seed_everything"),
    "option-print": (["--print_confi"], "--print_confi: there is no such option; nearest: --print_config"),
    "option-data": (
        ["--data.batch_siz", "3"],
        "data.batch_siz: DigitsDataModule has no such option; nearest: batch_size",
    ),
    "option-data-long": (
        ["--data.init_args.batch_siz", "3"],
        "DigitsDataModule has no such option; nearest: batch_size",
    ),
    # its base class has it, and it does not
    "option-of-base": (
        ["--data", "InMemoryFolderDataModule", "--data.num_workers", "2"],
        "data.num_workers: InMemoryFolderDataModule has no such option",
    ),
    "option-callback": (
        [T + "callbacks+=EMA", T + "callbacks.deca", "1"],
        "trainer.callbacks.deca: EMA has no such option; nearest: decay",
    ),
    "option-logger": (
        [T + "logger", "TensorBoardLogger", T + "logger.nam", "x"],
        "TensorBoardLogger has no such option; nearest: name",
    ),
    "option-strategy": (
        [T + "strategy", "DDPStrategy", T + "strategy.timeou", "1"],
        "DDPStrategy has no such option; nearest",
    ),
    "option-data-sets": (["--model.num_classes", "3"], "model.num_classes: follows from data.num_classes"),
    "word": (["mhc"], "got the word 'mhc', expected options only"),
    "no-value": (["--model.lr"], "--model.lr: expected one argument"),
    "print-flag": (["--print_config=foo"], 'Invalid option "foo" for --print_config'),
    # keys of files
    "key": (
        ["--config", "typo.yaml"],
        "typo.yaml: model.conection: there is no such option; nearest: model.connection",
    ),
    "key-section": (["--config", "section.yaml"], "section.yaml: modle.lr: there is no such option; nearest: model.lr"),
    "key-flat": (["--config", "flat.yaml"], "flat.yaml: lr: there is no such option, expected model.lr"),
    "key-trainer": (
        ["--config", "trainer.yaml"],
        "trainer.yaml: trainer.max_epoch: there is no such option; nearest: trainer.max_epochs",
    ),
    "key-data": (
        ["--config", "data.yaml"],
        "data.yaml: data.batchsize: DigitsDataModule has no such option; nearest: batch_size",
    ),
    "key-callback": (
        ["--config", "callback.yaml"],
        "callback.yaml: trainer.callbacks.deca: EMA has no such option; nearest: decay",
    ),
    "key-class": (
        ["--config", "callbacks.yaml"],
        "trainer.callbacks: got 'EMMA', expected the name of a Callback; nearest: EMA",
    ),
    "key-subcommand": (["--config", "fit.yaml"], "fit.yaml: fit.model.lr: there is no such option; nearest: model.lr"),
    "key-inline": (["--config", "model: {lrr: 3}"], "model.lrr: there is no such option; nearest: model.lr"),
    "key-data-file": (
        ["--data", "only_data.yaml"],
        "only_data.yaml: data.batch_sise: DigitsDataModule has no such option",
    ),
    "key-model-file": (
        ["--model", "only_model.yaml"],
        "only_model.yaml: model.lrr: there is no such option; nearest: model.lr",
    ),
    # files
    "file-missing": (
        ["--config", "tpyo.yaml"],
        "config: got tpyo.yaml, which is no file, expected a YAML file or a recipe",
    ),
    "file-folder": (["--config", "images"], "config: got images, which is a folder, expected a YAML file"),
    "file-broken": (["--config", "broken.yaml"], "broken.yaml: line 3, column 1: no YAML: did not find expected"),
    "file-twice": (["--config", "twice.yaml"], "twice.yaml: line 3, column 1: got the key 'model' a second time"),
    "file-data-missing": (["--data", "none.yaml"], "data: got none.yaml, which is no file"),
    "file-checkpoint": (["--ckpt_path", "none.ckpt"], "ckpt_path: got none.ckpt"),
    # names
    "data-module": (
        ["--data", "DigitDataModule"],
        "data: got 'DigitDataModule', expected the name of a LightningDataModule; nearest: DigitsDataModule",
    ),
    "data-module-path": (["--data", "mhc_vision.data.DigitDataModule"], "nearest: DigitsDataModule"),
    "data-other-class": (
        ["--data", "torch.nn.Linear"],
        "data: got 'torch.nn.Linear', expected the name of a LightningDataModule",
    ),
    "data-number": (["--data", "3"], "data: got '3', expected the name of a LightningDataModule"),
    "callback": (
        [T + "callbacks+=EarlyStoping"],
        "got 'EarlyStoping', expected the name of a Callback; nearest: EarlyStopping",
    ),
    "logger": (
        [T + "logger", "Tensorboard"],
        "got 'Tensorboard', expected the name of a Logger; nearest: TensorBoardLogger",
    ),
    "model": (["--model.name", "test_vti"], "name: got 'test_vti', expected a timm model; nearest: test_vit"),
    "model-hyper": (["--model.name", "test_vit_mhc"], "give name 'test_vit' with connection 'mhc'"),
    "connection": (["--model.connection", "mch"], "model.connection: got 'mch', expected 'shc', 'dhc', 'mhc'"),
    "connection-like": (["--model.connection", "mch"], "; nearest: mhc"),
    "connection-option": (
        ["--model.connection", "mhc", "--model.model_args.sinkhorn_iter", "3"],
        "sinkhorn_iter: got 3, but the model has no such argument; nearest: sinkhorn_iters",
    ),
    "connection-option-of-plain": (["--model.model_args.sinkhorn_iter", "3"], "; nearest: sinkhorn_iters"),
    "connection-option-other": (
        ["--model.connection", "shc", "--model.model_args.constraint", "sinkhorn"],
        "connection 'shc' has no such option",
    ),
    "constraint": (
        ["--model.connection", "mhc", "--model.model_args.constraint", "sinkhron"],
        "sinkhorn, permutation, kronecker, orthogonal, identity; nearest: sinkhorn",
    ),
    "read-out": (["--model.connection", "mhc", "--model.model_args.stream_reduce", "meen"], "nearest: mean"),
    "second-connection": (
        ["--model.connection", "mhc", "--model.model_args.connection", "shc"],
        "connection: got 'shc' for test_vit_mhc",
    ),
    "model-argument": (["--model.model_args.embed_dims", "3"], "nearest: embed_dim"),
    "optimizer": (
        ["--model.optimizer", "adamv"],
        "model.optimizer: got 'adamv', expected 'adamw', 'lamb'; nearest: adamw",
    ),
    "loss": (["--model.loss", "cee"], "model.loss: got 'cee', expected 'ce', 'bce'; nearest: ce"),
    # values
    "float": (["--model.lr", "fast"], "model.lr: got 'fast', expected float"),
    "float-in-file": (["--config", "value.yaml"], "model.lr: got 'fast', expected float"),
    "int": (["--data.batch_size", "many"], "data.batch_size: got 'many', expected int"),
    "int-or-null": ([T + "max_epochs", "many"], "trainer.max_epochs: got 'many', expected int or null"),
    "bool": (["--model.compile", "perhaps"], "model.compile: got 'perhaps', expected bool"),
    "pair": (["--model.betas", "[1,x]"], "model.betas: got 'x', expected float"),
    "mapping": (["--model.model_args", "3"], "model.model_args: got '3', expected dict or null"),
    "callback-value": (
        [T + "callbacks+=EMA", T + "callbacks.decay", "x"],
        "trainer.callbacks.decay: got 'x', expected float",
    ),
    "callback-argument": (
        [T + "callbacks+=EarlyStopping"],
        "EarlyStopping: the following arguments are required: monitor",
    ),
    "callback-range": ([T + "callbacks+=ModelCheckpoint", T + "callbacks.save_top_k", "-5"], "save_top_k=-5"),
    "callback-duration": ([T + "callbacks+=Timer", T + "callbacks.duration", "x"], "is not a valid duration"),
    "callback-choice": (
        [T + "callbacks+=LearningRateMonitor", T + "callbacks.logging_interval", "foo"],
        "got 'foo', expected 'step', 'epoch' or null",
    ),
    "seed-negative": (["--seed_everything", "-1"], "seed_everything: got -1, expected a whole number from 0"),
    "seed-large": (
        ["--seed_everything", "9999999999"],
        "seed_everything: got 9999999999, expected a whole number from 0 to",
    ),
    "seed-text": (["--seed_everything", "x"], "seed_everything: got 'x', expected bool or int"),
    # the Trainer
    "gpu": ([T + "accelerator", "gpu"], "trainer: No supported gpu backend found! (accelerator='gpu'"),
    "cuda": ([T + "accelerator", "cuda"], "trainer: `CUDAAccelerator` can not run on your system"),
    "tpu": ([T + "accelerator", "tpu"], "trainer: "),
    "accelerator": ([T + "accelerator", "gpuu"], "trainer: accelerator: got 'gpuu'; nearest: gpu"),
    "devices-0": ([T + "devices", "0"], "trainer: `Trainer(devices='0')` value is not a valid input"),
    "devices-negative": ([T + "devices", "-2"], "trainer: `devices` selected with `CPUAccelerator`"),
    "devices-text": ([T + "devices", "x"], "devices='x'"),
    "devices-list": ([T + "devices", "[0,1]"], "devices=[0, 1]"),
    "devices-fraction": ([T + "devices", "1.5"], "devices='1.5'"),
    "nodes": ([T + "num_nodes", "0"], "trainer: `num_nodes` must be a positive integer, but got 0"),
    "strategy": ([T + "strategy", "dpp"], "trainer: strategy: got 'dpp'; nearest: ddp"),
    "strategy-fsdp": ([T + "strategy", "fsdp"], "trainer: The strategy `fsdp` requires a GPU accelerator"),
    "strategy-deepspeed": ([T + "strategy", "deepspeed"], "you must have DeepSpeed installed"),
    "precision": ([T + "precision", "bf17"], "trainer.precision: got 'bf17', expected"),
    "precision-number": ([T + "precision", "17"], "trainer.precision: got '17', expected"),
    "max-steps": ([T + "max_steps", "-5"], "trainer: `max_steps` must be a non-negative integer"),
    "max-epochs": ([T + "max_epochs", "-5"], "trainer: `max_epochs` must be a non-negative integer"),
    "max-time": ([T + "max_time", "soon"], "trainer: `Timer(duration='soon')` is not a valid duration"),
    "limit": ([T + "limit_train_batches", "1.5"], "trainer: You have passed invalid value 1.5 for limit_train_batches"),
    "limit-text": ([T + "limit_val_batches", "x"], "trainer.limit_val_batches: got 'x', expected int or float or null"),
    "overfit": ([T + "overfit_batches", "-1"], "trainer: You have passed invalid value -1 for overfit_batches"),
    "val-interval": (
        [T + "val_check_interval", "2.5"],
        "trainer: You have passed invalid value 2.5 for val_check_interval",
    ),
    "val-interval-long": (
        [T + "val_check_interval", "1000000"],
        "must be less than or equal to the number of the training batches",
    ),
    "val-epochs": (
        [T + "check_val_every_n_epoch", "0"],
        "trainer: check_val_every_n_epoch: got 0, expected a whole number from 1",
    ),
    "accumulate": (
        [T + "accumulate_grad_batches", "0"],
        "trainer: accumulate_grad_batches: got 0, expected a whole number from 1",
    ),
    "clip": ([T + "gradient_clip_val", "-1"], "trainer: gradient_clip_val: got -1"),
    "clip-nan": ([T + "gradient_clip_val", ".nan"], "trainer: gradient_clip_val: got nan, expected a finite number"),
    "clip-algorithm": ([T + "gradient_clip_algorithm", "foo"], "trainer: `gradient_clip_algorithm` foo is invalid"),
    "log-steps": ([T + "log_every_n_steps", "-1"], "every_n_steps"),
    "profiler": ([T + "profiler", "foo"], "trainer: When passing string value for the `profiler`"),
    "barebones": ([T + "barebones", "true"], "trainer: `Trainer(barebones=True"),
    "fast-dev-run": ([T + "fast_dev_run", "-1"], "trainer: fast_dev_run=-1 is not a valid configuration"),
    "reload": ([T + "reload_dataloaders_every_n_epochs", "-1"], "should be an int >= 0, got -1"),
    "plugins": ([T + "plugins", "foo"], "trainer.plugins: got 'foo', expected the name of a"),
    "logger-missing": ([T + "logger", "CometLogger"], "comet"),
}


@pytest.mark.parametrize("row", OPTIONS)
def test_train_refuses_in_a_few_words(refused, places, row):
    words, message = OPTIONS[row]
    run_dir = places / "run"
    said = refused(
        [
            *("train", "--config", CONFIGS / "digits.yaml", "--model.model_args.depth", "1"),
            *("--trainer.default_root_dir", run_dir, *words),
        ]
    )
    assert said.startswith("mhc-vision: error: ")
    assert message in said
    assert not run_dir.exists()


FINETUNE: dict[str, tuple[list[str], str]] = {
    "method": (
        ["--model.method", "ful"],
        "model.method: got 'ful', expected 'full', 'lora', 'connections', 'linear', 'knn'; nearest: full",
    ),
    "weights": (["--model.weights", "rwa"], "model.weights: got 'rwa', expected"),
    "option": (["--model.lora_rnak", "4"], "--model.lora_rnak: there is no such option; nearest: --model.lora_rank"),
    "model": (["--model.name", "vit_bse_patch16_224"], "nearest: vit_base_patch16_224"),
    "connection": (["--model.name", "test_vit", "--model.connection", "mch"], "nearest: mhc"),
    "file-twice": (["--config", "twice.yaml"], "twice.yaml: line 3, column 1: got the key 'model' a second time"),
    "file-missing": (["--config", "tpyo.yaml"], "; nearest: typo.yaml"),
}


@pytest.mark.parametrize("row", FINETUNE)
def test_finetune_refuses_in_a_few_words(refused, places, row):
    words, message = FINETUNE[row]
    said = refused(["finetune", "--config", CONFIGS / "finetune" / "digits.yaml", *words])
    assert said.startswith("mhc-vision: error: ")
    assert message in said


COMMANDS: dict[str, tuple[list[str], str]] = {
    "command": (["trian", "--config", "x"], "command: got 'trian', expected one of train"),
    "command-like": (["trian", "--config", "x"], "; nearest: train"),
    "command-none": (["xyz"], "command: got 'xyz', expected one of train"),
    "subcommand": (["train", "fitt"], "subcommand: got 'fitt', expected one of fit, validate, test; nearest: fit"),
    "subcommand-finetune": (
        ["finetune", "valdate"],
        "PHOTOS: got valdate, which is not there, expected a folder with class folders; nearest: validate",
    ),
    "subcommand-alone": (["fitt"], "command: got 'fitt', expected one of train"),
    "train-nothing": (["train"], "model.name, data: not given, expected a --config that sets this"),
    "train-overlay-only": (
        ["train", "--config", str(CONFIGS / "connections" / "mhc.yaml")],
        "model.name, data: not given",
    ),
    "evaluate-nothing": (
        ["evaluate"],
        "the following arguments are required: MODEL, FOLDER; mhc-vision evaluate --help",
    ),
    "evaluate-option": (
        ["evaluate", "test_vit", "images", "--batch-sice", "3"],
        "unrecognized arguments: --batch-sice 3; nearest: --batch-size",
    ),
    "evaluate-choice": (
        ["evaluate", "test_vit", "images", "--precision", "bf32"],
        "--precision: invalid choice: 'bf32'",
    ),
    "evaluate-connection": (["evaluate", "test_vit", "images", "--connection", "mch"], "; nearest: mhc"),
    "evaluate-number": (
        ["evaluate", "test_vit", "images", "--batch-size", "many"],
        "argument --batch-size: invalid int value: 'many'",
    ),
    "evaluate-model": (
        ["evaluate", "test_vti", "images"],
        "model: got 'test_vti', expected a checkpoint, a directory or a timm model; nearest: test_vit",
    ),
    "predict-nothing": (["predict", "test_vit"], "the following arguments are required: IMAGES"),
    "predict-option": (
        ["predict", "test_vit", "images", "--topk", "3"],
        "unrecognized arguments: --topk 3; nearest: --top-k",
    ),
    "predict-format": (["predict", "test_vit", "images", "--format", "jsn"], "; nearest: json"),
    "predict-model": (["predict", "test_vti", "images"], "nearest: test_vit"),
    "embed-nothing": (["embed", "test_vit"], "the following arguments are required: IMAGES, --out"),
    "embed-features": (["embed", "test_vit", "images", "--out", "a.npz", "--features", "patch"], "; nearest: patches"),
    "embed-file": (["embed", "test_vit", "images", "--out", "a.csv"], "expected a name that ends in .npz or .parquet"),
    "analyze-nothing": (["analyze"], "the following arguments are required: MODEL, --out"),
    "analyze-option": (
        ["analyze", "test_vit", "--out", "new", "--num-image", "x"],
        "argument --num-images: invalid int value: 'x'",
    ),
    "analyze-weights": (["analyze", "test_vit", "--out", "new", "--weights", "intial"], "; nearest: initial"),
    "analyze-model": (["analyze", "test_vti", "--out", "new"], "nearest: test_vit"),
    "export-nothing": (["export"], "the following arguments are required: MODEL, DIRECTORY"),
    "export-format": (["export", "x.ckpt", "new", "--format", "onx"], "; nearest: onnx"),
    "export-option": (["export", "x.ckpt", "new", "--frmat", "onnx"], "; nearest: --format"),
    "compare-nothing": (["compare"], "the following arguments are required: matrix, --out"),
    "compare-missing": (["compare", "none.yaml", "--out", "new"], "none.yaml"),
    "compare-key": (["compare", "matrix.yaml", "--out", "new"], "matrix.yaml: matrix: got the key 'recipies'"),
    "compare-twice": (
        ["compare", "twice_matrix.yaml", "--out", "new"],
        "twice_matrix.yaml: line 2, column 1: got the key 'name'",
    ),
    "compare-set": (
        ["compare", "matrix.yaml", "--out", "new", "--set", "model.lr"],
        "--set: got 'model.lr', expected KEY=VALUE",
    ),
    "compare-set-twice": (
        ["compare", "matrix.yaml", "--out", "new", "--set", "a={b: 1, b: 2}"],
        "--set a: line 1, column 8: got the key 'b'",
    ),
    "compare-set-broken": (
        ["compare", "matrix.yaml", "--out", "new", "--set", "a=[1"],
        "--set a: line 2, column 1: no YAML",
    ),
    "compare-option": (["compare", "matrix.yaml", "--out", "new", "--job", "x"], "argument --jobs: invalid int value"),
    "compare-report": (["compare", "matrix.yaml", "--out", "new", "--reprot-only"], "; nearest: --report-only"),
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("row", COMMANDS)
def test_commands_refuse_in_a_few_words(refused, row):
    words, message = COMMANDS[row]
    assert message in refused(words)
    assert not Path("new").exists()


def test_a_dataset_of_torchvision_has_names_like_it(refused, places):
    words = [
        "train",
        "--config",
        CONFIGS / "digits.yaml",
        "--data",
        "DownstreamDataModule",
        "--data.dataset",
        "cfar10",
    ]
    assert "; nearest: cifar10" in refused([*words, "--data.root", places])


# what callbacks find out only when metrics are there
def test_a_metric_that_is_not_logged_is_a_message(refused, places):
    said = refused(
        [
            *(
                "train",
                "--config",
                CONFIGS / "digits.yaml",
                "--model.model_args.depth",
                "1",
                "--model.warmup_epochs",
                "0",
            ),
            *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", places / "run"),
            *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/accuracy"),
        ]
    )
    assert "Early stopping conditioned on metric `val/accuracy` which is not available" in said
