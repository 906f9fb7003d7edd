"""What lies in files of others is data: broken, hostile or huge, it gets one line that names file and key."""

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from mhc_vision.cli import main
from mhc_vision.data import FakeDataModule, TimmDataModule
from mhc_vision.inference.checkpoint_model import load_checkpoint_model
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.run_data import load_run_data
from mhc_vision.stored.checkpoint_files import read_checkpoint
from mhc_vision.stored.checkpoint_schema import check_restorable
from mhc_vision.training.module import ClassificationModule

Content = dict[str, Any]
Change = Callable[[Content], Any]

MODEL = ("--model.name", "test_vit", "--model.connection", "mhc", "--model.num_streams", "2")
ARGS = {"depth": 1, "patch_size": 8}


_COUNTS = {"ready": 1, "started": 1, "processed": 1, "completed": 1}
_PROGRESS = {"total": _COUNTS, "current": _COUNTS}


@pytest.fixture(scope="module")
def saved() -> bytes:
    """A checkpoint as a run of three classes leaves it, of a model of one block."""
    module = ClassificationModule("test_vit", 3, connection="mhc", num_streams=2, img_size=16, model_args=ARGS)
    data = FakeDataModule(img_size=16, num_classes=3, num_images=16, batch_size=4)
    content = {
        "epoch": 0,
        "global_step": 4,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"epoch_progress": _PROGRESS}, "validate_loop": {}, "test_loop": {}},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hyper_parameters": dict(module.hparams),
        "FakeDataModule": data.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write(saved: bytes, change: Change, path: Path) -> Path:
    """The checkpoint after a change, in a file; a change that gives something gives the whole content."""
    content = torch.load(io.BytesIO(saved), weights_only=True)
    replaced = change(content)
    torch.save(content if replaced is None else replaced, path)
    return path


def refused(load: Callable[[], Any], one_line: bool = True) -> str:
    """The message of what must refuse its input."""
    with pytest.raises(ValueError, match=r".") as stopped:
        load()
    assert not (one_line and "\n" in str(stopped.value))
    return str(stopped.value)


def put(*keys: Any) -> Change:
    """Put the last of `keys` where the others lead."""
    *way, last, value = keys

    def change(content: Content) -> None:
        place = content
        for key in way:
            place = place[key]
        place[last] = value

    return change


def drop(*keys: Any) -> Change:
    *way, last = keys

    def change(content: Content) -> None:
        place = content
        for key in way:
            place = place[key]
        del place[last]

    return change


def setting(key: str, value: Any) -> Change:
    return put("hyper_parameters", key, value)


def argument(key: str, value: Any) -> Change:
    return put("hyper_parameters", "model_args", key, value)


def recorded(key: str, value: Any) -> Change:
    return put("FakeDataModule", key, value)


def weight(key: str, value: Any) -> Change:
    return put("state_dict", f"model.{key}", value)


def rename_all(content: Content) -> None:
    content["state_dict"] = {f"net.{key}": value for key, value in content["state_dict"].items()}


def lora(content: Content) -> None:
    content["hyper_parameters"]["method"] = "lora"


def deep_list() -> list:
    nested: list = []
    for _ in range(50):
        nested = [nested]
    return nested


CHECKPOINTS: list[tuple[str, Change, str]] = [
    ("a list", lambda content: [1, 2], "no checkpoint of a training run"),
    ("a tensor", lambda content: torch.zeros(3), "no checkpoint of a training run"),
    ("nothing", lambda content: {}, "no checkpoint of a training run"),
    ("step missing", drop("global_step"), "no checkpoint of a training run"),
    ("step text", put("global_step", "4"), "global_step is '4'"),
    ("step negative", put("global_step", -1), "global_step is -1"),
    ("step nan", put("global_step", math.nan), "global_step is nan"),
    ("step true", put("global_step", True), "global_step is True"),
    ("epoch text", put("epoch", "1"), "epoch: got '1', expected a whole number from 0"),
    ("whole keys", put(7, "x"), "expected a mapping with texts as keys"),
    ("settings missing", drop("hyper_parameters"), "was not made by mhc-vision train"),
    ("settings null", put("hyper_parameters", None), "hyper_parameters: got None, expected a mapping"),
    ("settings list", put("hyper_parameters", [1]), "hyper_parameters: got [1], expected a mapping"),
    ("settings whole keys", put("hyper_parameters", 3, 1), "hyper_parameters: got dict"),
    ("settings tensor", setting("lr", torch.ones(2)), "hyper_parameters.lr: got a tensor of shape (2,)"),
    ("name missing", drop("hyper_parameters", "name"), "hyper_parameters lacks name"),
    ("name whole", setting("name", 3), "hyper_parameters.name: got 3, expected a text"),
    ("name empty", setting("name", ""), "hyper_parameters.name: got '', expected a text"),
    ("name unknown", setting("name", "test_vti"), "name: got 'test_vti', expected a timm model; nearest: test_vit"),
    ("name path", setting("name", "local-dir:/tmp"), "name: got 'local-dir:/tmp', expected a timm model"),
    ("name hub", setting("name", "hf-hub:a/b"), "name: got 'hf-hub:a/b', expected a timm model"),
    (
        "connection unknown",
        setting("connection", "hcc"),
        "hyper_parameters.connection: got 'hcc', expected one of null",
    ),
    ("connection list", setting("connection", ["mhc"]), "hyper_parameters.connection: got ['mhc']"),
    ("streams text", setting("num_streams", "2"), "num_streams: got '2', expected a whole number from 1"),
    ("streams nan", setting("num_streams", math.nan), "num_streams: got nan"),
    ("streams 10^9", setting("num_streams", 10**9), "no model can be built of hyper_parameters"),
    ("streams others", setting("num_streams", 3), "does not fit the model of its settings"),
    ("classes text", setting("num_classes", "3"), "num_classes: got '3', expected a whole number from 1"),
    ("classes true", setting("num_classes", True), "num_classes: got True"),
    ("classes 0", setting("num_classes", 0), "num_classes: got 0"),
    ("classes 10^10", setting("num_classes", 10**10), "FakeDataModule.class_names: got ['class 0'"),
    ("channels null", setting("in_chans", None), "in_chans: got None"),
    ("channels 10^9", setting("in_chans", 10**9), "FakeDataModule.mean: got [0.5, 0.5, 0.5]"),
    ("size text", setting("img_size", "16"), "img_size: got '16'"),
    ("size list", setting("img_size", [16, 16]), "img_size: got [16, 16]"),
    ("size 10^10", setting("img_size", 10**10), "img_size: got 10000000000, expected a whole number from 1 to 16384"),
    ("size another", setting("img_size", 32), "has pos_embed as float32 (1, 5, 64) for float32 (1, 17, 64)"),
    ("lr text", setting("lr", "0.1"), "hyper_parameters.lr: got '0.1', expected a finite number above 0"),
    ("lr nan", setting("lr", math.nan), "hyper_parameters.lr: got nan"),
    ("lr huge", setting("lr", 10**400), "hyper_parameters.lr: got int 1000"),
    ("betas short", setting("betas", [0.9]), "hyper_parameters.betas: got [0.9], expected a list of 2 values"),
    ("loss unknown", setting("loss", "mse"), "hyper_parameters.loss: got 'mse', expected one of ce, bce"),
    ("loss list", setting("loss", ["ce"]), "hyper_parameters.loss: got ['ce']"),
    ("metric unknown", setting("metric", "top2"), "hyper_parameters.metric: got 'top2'"),
    ("compile text", setting("compile", "yes"), "hyper_parameters.compile: got 'yes', expected true or false"),
    ("unknown nested", setting("mine", {"class_path": "os.system"}), "hyper_parameters.mine: got {'class_path'"),
    ("unknown deep", setting("mine", deep_list()), "hyper_parameters.mine: got list [[[["),
    ("lora without ranks", lora, "hyper_parameters.lora_rank: missing, expected a whole number from 1"),
    ("args list", setting("model_args", [1]), "hyper_parameters.model_args: got [1], expected a mapping"),
    ("args text", setting("model_args", "depth"), "hyper_parameters.model_args: got 'depth'"),
    ("args whole keys", setting("model_args", {1: 2}), "hyper_parameters.model_args: got {1: 2}"),
    ("args own", argument("num_classes", 4), "model_args: got ['num_classes']"),
    ("args unknown", argument("colour", "red"), "no model can be built of hyper_parameters"),
    ("args tensor", argument("drop_rate", torch.zeros(1)), "model_args.drop_rate: got a tensor"),
    ("args nan", argument("drop_path_rate", math.nan), "model_args.drop_path_rate: got nan"),
    (
        "args class_path",
        argument("norm_layer", {"class_path": "os.system"}),
        "model_args.norm_layer: got {'class_path'",
    ),
    ("args block", argument("block_fn", "os.system"), "no model can be built of hyper_parameters"),
    ("args norm", argument("norm_layer", "os.system"), "no model can be built of hyper_parameters"),
    ("args features_only", argument("features_only", True), "model_args.features_only: got True, expected no such key"),
    ("args out_indices", argument("out_indices", [0]), "model_args.out_indices: got [0], expected no such key"),
    ("args feature_cls", argument("feature_cls", "fx"), "model_args.feature_cls: got 'fx', expected no such key"),
    ("args model_cfg", argument("model_cfg", {}), "model_args.model_cfg: got {}, expected no such key"),
    (
        "args filter",
        argument("pretrained_filter_fn", "x"),
        "model_args.pretrained_filter_fn: got 'x', expected no such",
    ),
    ("args pretrained", argument("pretrained", True), "model_args.pretrained: got True, expected no such key"),
    ("args file", argument("file", "/etc/passwd"), "model_args.file: got '/etc/passwd', expected no such key"),
    ("args url", argument("url", "http://x"), "model_args.url: got 'http://x', expected no such key"),
    ("args hub", argument("hf_hub_id", "a/b"), "model_args.hf_hub_id: got 'a/b', expected no such key"),
    ("depth 10^7", argument("depth", 10**7), "model_args.depth: got 10000000, expected 1: the weights are of so many"),
    ("depth 0", argument("depth", 0), "model_args.depth: got 0, expected 1"),
    ("depth text", argument("depth", "1"), "depth: got '1', expected a whole number from 1"),
    ("width 10^9", argument("embed_dim", 10**9), "model_args.embed_dim: got 1000000000, expected numbers up to"),
    ("width another", argument("embed_dim", 128), "does not fit the model of its settings"),
    ("heads 0", argument("num_heads", 0), "no model can be built of hyper_parameters"),
    ("mlp 10^12", argument("mlp_ratio", 1e12), "model_args.mlp_ratio: got 1000000000000.0, expected numbers up to"),
    ("weights missing", drop("state_dict"), "state_dict: got None, expected a mapping from names to weights"),
    ("weights empty", put("state_dict", {}), "state_dict: got {}, expected a mapping"),
    ("weights list", put("state_dict", [1]), "state_dict: got [1], expected a mapping"),
    ("weights whole keys", put("state_dict", 5, torch.ones(1)), "state_dict: got the key 5"),
    ("weights text", weight("head.bias", "x"), "state_dict.model.head.bias: got 'x', expected a dense tensor"),
    ("weights sparse", weight("head.bias", torch.ones(3).to_sparse()), "state_dict.model.head.bias: got a tensor"),
    ("weights whole numbers", weight("head.bias", torch.ones(3, dtype=torch.int64)), "head.bias as int64 (3,)"),
    ("weights complex", weight("head.bias", torch.ones(3, dtype=torch.complex64)), "head.bias as complex64 (3,)"),
    (
        "weights of one byte",
        weight("head.weight", torch.zeros(1).expand(10**10, 64)),
        "expected each value to be stored",
    ),
    ("weights lacking", drop("state_dict", "model.head.bias"), "it lacks head.bias"),
    ("weights unknown", weight("tail.bias", torch.ones(3)), "it has tail.bias, which the model does not"),
    ("weights of another shape", weight("head.bias", torch.ones(4)), "has head.bias as float32 (4,) for float32 (3,)"),
    ("weights of others", rename_all, "it lacks cls_token, pos_embed, patch_embed.proj.weight and 23 more"),
    ("data list", put("FakeDataModule", [1]), "FakeDataModule: got [1], expected a mapping"),
    ("data without names", drop("FakeDataModule", "class_names"), "FakeDataModule.class_names: missing"),
    ("names text", recorded("class_names", "abc"), "class_names: got 'abc', expected a list of 3 class names"),
    ("names numbers", recorded("class_names", [0, 1, 2]), "class_names: got [0, 1, 2]"),
    ("names few", recorded("class_names", ["a"]), "class_names: got ['a'], expected a list of 3 class names"),
    ("names null", recorded("class_names", None), "class_names: got None"),
    ("mean short", recorded("mean", [0.5]), "FakeDataModule.mean: got [0.5], expected a list of 3 numbers"),
    ("mean text", recorded("mean", "0.5"), "FakeDataModule.mean: got '0.5'"),
    ("mean nan", recorded("mean", [math.nan] * 3), "FakeDataModule.mean: got [nan, nan, nan]"),
    ("std zero", recorded("std", [0.0, 1.0, 1.0]), "FakeDataModule.std: got [0.0, 1.0, 1.0]"),
    ("crop text", recorded("crop_pct", "0.9"), "crop_pct: got '0.9', expected a finite number above 0"),
    ("crop infinite", recorded("crop_pct", math.inf), "crop_pct: got inf"),
    ("interpolation whole", recorded("interpolation", 3), "interpolation: got 3, expected a text"),
    ("images text", recorded("num_train", "16"), "num_train: got '16'"),
    ("options list", recorded("options", []), "options: got [], expected a mapping"),
    ("options nested", recorded("options", {"a": torch.ones(1)}), "options.a: got a tensor"),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in CHECKPOINTS], ids=[row[0] for row in CHECKPOINTS])
def test_a_checkpoint(change: Change, words: str, saved: bytes, tmp_path: Path) -> None:
    path = write(saved, change, tmp_path / "their.ckpt")
    message = refused(lambda: load_checkpoint_model(path))
    assert words in message
    assert str(path) in message


def test_the_checkpoint_itself_is_loaded(saved: bytes, tmp_path: Path) -> None:
    loaded = load_checkpoint_model(write(saved, lambda content: None, tmp_path / "our.ckpt"))
    assert loaded.settings["model_args"] == ARGS
    assert loaded.data["class_names"] == ["class 0", "class 1", "class 2"]


SOURCES: list[tuple[str, Any]] = [
    ("checkpoint_path", "/not/there.pth"),
    ("cache_dir", "/not/there"),
    ("pretrained_strict", False),
    ("pretrained_cfg_overlay", {"file": "/not/there.pth", "custom_load": True}),
    ("pretrained_cfg", {"url": "http://host.invalid/weights.pth"}),
    ("pretrained_cfg_overlay", {"state_dict": {"a": 1}}),
]


@pytest.mark.parametrize(("key", "value"), SOURCES, ids=str)
def test_where_a_run_has_read_its_weights_is_not_read_again(
    key: str, value: Any, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may have given them to `train`: such a checkpoint has its weights, and nothing else is looked for."""
    monkeypatch.setattr("timm.models._factory.load_checkpoint", None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    loaded = load_checkpoint_model(write(saved, argument(key, value), tmp_path / "old.ckpt"))
    assert loaded.settings["model_args"] == ARGS


def test_what_a_run_said_of_its_images_stays(saved: bytes, tmp_path: Path) -> None:
    overlay = {"file": "/not/there.pth", "mean": [0.1, 0.2, 0.3]}

    def change(content: Content) -> None:
        argument("pretrained_cfg_overlay", overlay)(content)
        # of a data module of somebody's own, which leaves no record
        del content["FakeDataModule"]

    assert load_model(str(write(saved, change, tmp_path / "old.ckpt"))).mean == (0.1, 0.2, 0.3)


def test_a_new_run_does_not_record_where_its_weights_came_from(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=3, depth=1).state_dict(), weights)
    module = ClassificationModule("test_vit", 3, model_args={"depth": 1, "checkpoint_path": str(weights)})
    assert torch.equal(module.model.head.weight, torch.load(weights)["head.weight"])
    assert module.hparams["model_args"] == {"depth": 1}


class Evil:
    """Its pickle runs a function."""

    def __reduce__(self) -> Any:
        return (Path("/tmp").joinpath, ("never",))


FILES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("empty", lambda path: path.write_bytes(b""), "it is cut short, or no checkpoint"),
    ("text", lambda path: path.write_text("weights"), "it is cut short, or no checkpoint"),
    ("plain pickle", lambda path: path.write_bytes(pickle.dumps({"global_step": 1})), "it is cut short"),
    ("code", lambda path: torch.save({"global_step": 1, "x": Evil()}, path), "torch cannot load it"),
    ("empty pickle", lambda path: write_archive(path, b""), "torch cannot load it"),
    ("broken pickle", lambda path: write_archive(path, b"\x80\x02}q\x00X"), "torch cannot load it"),
    ("no such thing", lambda path: write_archive(path, pickle.dumps(3)), "it is no checkpoint of a training run"),
]


def write_archive(path: Path, pickled: bytes) -> None:
    """A file as torch writes it, with other bytes in place of its pickle."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_file_that_is_no_checkpoint(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path / "their.ckpt")
    message = refused(lambda: load_checkpoint_model(tmp_path / "their.ckpt"))
    assert words in message
    assert "their.ckpt" in message


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one block as timm writes it."""
    folder = tmp_path_factory.mktemp("timm") / "model"
    model = timm.create_model("test_vit", num_classes=3, img_size=16, **ARGS)
    save_for_hf(
        model, str(folder), model_config={"pretrained_cfg": {"input_size": [3, 16, 16]}}, safe_serialization=True
    )
    return folder


def more_classes(content: Content) -> None:
    content["num_classes"] = 10**10
    del content["model_args"]["num_classes"]


CONFIGS: list[tuple[str, Change | str, str]] = [
    ("no json", "{", "config.json is no JSON"),
    ("empty", "", "config.json is no JSON"),
    ("deep", "[" * 100_000, "config.json is no JSON"),
    ("a list", "[]", "config.json holds list, expected an object"),
    ("a number", "3", "config.json holds int, expected an object"),
    ("nothing", "{}", "config.json has no architecture"),
    ("architecture whole", put("architecture", 3), "architecture: got 3, expected a text"),
    ("architecture unknown", put("architecture", "test_vti"), "expected a timm model; nearest: test_vit"),
    (
        "architecture twice",
        put("pretrained_cfg", "architecture", "resnet18"),
        "pretrained_cfg.architecture: got 'resnet18'",
    ),
    ("classes text", put("num_classes", "3"), "num_classes: got '3', expected a whole number"),
    ("classes of two kinds", put("num_classes", 4), "model_args.num_classes: got 3, expected 4 as in num_classes"),
    ("classes 10^10", more_classes, "config.json describes test_vit with 6"),
    ("described list", put("pretrained_cfg", []), "pretrained_cfg: got [], expected a mapping"),
    ("described null", put("pretrained_cfg", None), "pretrained_cfg: got None, expected a mapping"),
    (
        "size short",
        put("pretrained_cfg", "input_size", [16]),
        "pretrained_cfg.input_size: got [16], expected a list of 3",
    ),
    ("size text", put("pretrained_cfg", "input_size", "16"), "pretrained_cfg.input_size: got '16'"),
    (
        "size huge",
        put("pretrained_cfg", "input_size", [3, 10**9, 10**9]),
        "pretrained_cfg.input_size: got [3, 1000000000",
    ),
    ("mean text", put("pretrained_cfg", "mean", "0.5"), "pretrained_cfg.mean: got '0.5'"),
    ("mean nan", put("pretrained_cfg", "mean", [math.nan] * 3), "pretrained_cfg.mean: got [nan, nan, nan]"),
    ("std zero", put("pretrained_cfg", "std", [0, 0, 0]), "pretrained_cfg.std: got [0, 0, 0]"),
    ("crop text", put("pretrained_cfg", "crop_pct", "0.9"), "pretrained_cfg.crop_pct: got '0.9'"),
    ("names numbers", put("label_names", [1, 2, 3]), "label_names: got [1, 2, 3], expected a list of names"),
    ("names keys", put("label_names", {"a": "b"}), "label_names: got {'a': 'b'}"),
    ("offset text", put("pretrained_cfg", "label_offset", "1"), "pretrained_cfg.label_offset: got '1'"),
    ("classifier whole", put("pretrained_cfg", "classifier", 3), "pretrained_cfg.classifier: got 3"),
    ("notes whole", put("pretrained_cfg", "notes", [3]), "pretrained_cfg.notes: got [3]"),
    ("args list", put("model_args", [1]), "model_args: got [1], expected a mapping"),
    (
        "args checkpoint",
        put("model_args", "checkpoint_path", "/x"),
        "model_args.checkpoint_path: got '/x', expected no such",
    ),
    (
        "args overlay",
        put("model_args", "pretrained_cfg_overlay", {"file": "/x"}),
        "model_args.pretrained_cfg_overlay: got",
    ),
    ("args cfg", put("model_args", "pretrained_cfg", {"url": "x"}), "model_args.pretrained_cfg: got"),
    ("args cache", put("model_args", "cache_dir", "/x"), "model_args.cache_dir: got '/x', expected no such key"),
    ("args pretrained", put("model_args", "pretrained", True), "model_args.pretrained: got True, expected no such key"),
    ("args features", put("model_args", "features_only", True), "model_args.features_only: got True, expected no such"),
    ("args code", put("model_args", "norm_layer", {"class_path": "os.system"}), "model_args.norm_layer: got"),
    ("args block", put("model_args", "block_fn", "os.system"), "no model can be built of config.json"),
    ("args unknown", put("model_args", "colour", "red"), "no model can be built of config.json"),
    ("depth 10^7", put("model_args", "depth", 10**7), "model_args.depth: got 10000000, expected at most 1024"),
    ("depth another", put("model_args", "depth", 2), "Missing key(s) in state_dict: blocks.1.norm1.weight"),
    ("depth text", put("model_args", "depth", "1"), "no model can be built of config.json"),
    ("width huge", put("model_args", "embed_dim", 2**20), "describes test_vit with"),
    ("width another", put("model_args", "embed_dim", 128), "size mismatch for cls_token"),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS])
def test_a_directory(change: Change | str, words: str, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    text = change
    if not isinstance(change, str):
        content = json.loads((directory / "config.json").read_text())
        change(content)
        text = json.dumps(content)
    (tmp_path / "config.json").write_text(str(text))
    message = refused(lambda: load_model(str(tmp_path)))
    assert words in message
    assert str(tmp_path) in message


def section(text: str) -> str:
    return f"data: {text}\n"


def data_of(name: str, **arguments: Any) -> str:
    return section(json.dumps({"class_path": name, "init_args": arguments}))


MARK = "/tmp/mhc_vision_test_of_commands"
RUN_CONFIGS: list[tuple[str, str, str]] = [
    ("no yaml", "data: [", "config.yaml: line 2, column 1: no YAML"),
    ("object", "data: !!python/object/apply:os.system [id]\n", "config.yaml: line 1, column 7: no YAML"),
    ("a list", "- 1\n", "config.yaml: got [1], expected the settings of a run"),
    ("no section", "model: {}\n", "without a section `data`, expected one; give --data"),
    ("a number", section("3"), "got 3, expected class_path and init_args"),
    ("other keys", section("{class_path: FakeDataModule, dict_kwargs: {a: 1}}"), "expected class_path and init_args"),
    ("no class", section("{init_args: {root: /x}}"), "class_path: got None"),
    ("function", data_of("os.system", command="id"), "class_path: got 'os.system', expected one of the library's own"),
    ("class of others", data_of("torch.utils.data.DataLoader"), "a file does not choose code to run; give --data"),
    ("class of a user", data_of("mine.FakeDataModule"), "class_path: got 'mine.FakeDataModule'"),
    ("the base", data_of("mhc_vision.data.ImageDataModule"), "class_path: got 'mhc_vision.data.ImageDataModule'"),
    ("another module", data_of("mhc_vision.training.FakeDataModule"), "class_path: got 'mhc_vision.training"),
    ("helper", data_of("mhc_vision.data.decode.decode_rgb"), "class_path: got 'mhc_vision.data.decode.decode_rgb'"),
    ("class list", section("{class_path: [FakeDataModule]}"), "class_path: got ['FakeDataModule']"),
    (
        "arguments list",
        section("{class_path: FakeDataModule, init_args: [1]}"),
        "init_args: got [1], expected a mapping",
    ),
    ("unknown argument", data_of("FakeDataModule", colour=1), "got colour, expected arguments of FakeDataModule"),
    (
        "nested class",
        data_of("FakeDataModule", seed={"class_path": "os.system"}),
        "seed: got {'class_path': 'os.system'}",
    ),
    ("date", section("{class_path: FakeDataModule, init_args: {seed: 2020-01-01}}"), "seed: got datetime.date"),
    ("text for a number", data_of("FakeDataModule", num_images="many"), "expected one that gives images"),
    ("out of range", data_of("FakeDataModule", batch_size=0), "batch_size"),
    ("moved folder", data_of("ImageFolderDataModule", root="/not/there"), "/not/there is missing"),
    ("hub", data_of("TimmDataModule", dataset="hfds/a/b"), "dataset: got 'hfds/a/b', expected files of this machine"),
    ("pipe", data_of("TimmDataModule", dataset="wds/x", root=f"pipe:touch {MARK};"), "root: got 'pipe:touch"),
    (
        "pipe and permission",
        data_of("TimmDataModule", dataset="wds/x", root=f"pipe:touch {MARK};", allow_commands=True, num_classes=2),
        "root: got 'pipe:touch",
    ),
    (
        "pipe in a split",
        data_of(
            "TimmDataModule", dataset="wds/x", train_split=f"pipe:touch {MARK} .tar", allow_commands=True, num_classes=2
        ),
        "webdataset runs a command for pipe:",
    ),
    ("web", data_of("TimmDataModule", dataset="wds/x", root="https://host.invalid/x"), "nothing is run or fetched"),
]


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in RUN_CONFIGS], ids=[row[0] for row in RUN_CONFIGS])
def test_the_configuration_beside_a_checkpoint(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert words in refused(lambda: load_run_data(tmp_path / "config.yaml"), one_line=False)
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "name", ["FakeDataModule", "mhc_vision.data.FakeDataModule", "mhc_vision.data.fake.FakeDataModule"]
)
def test_the_library_s_own_data_by_any_of_its_names(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(data_of(name, num_images=8, num_classes=2, batch_size=2))
    assert load_run_data(config).num_train == 8


def test_nothing_is_downloaded_for_a_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(data_of("DownstreamDataModule", dataset="cifar10", root=str(tmp_path), download=True))
    with pytest.raises(ValueError, match="expected one that gives images"):
        load_run_data(config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


LOCATIONS: list[tuple[str, dict[str, Any], str]] = [
    *(
        (f"{scheme} {split}", {"root": root, "train_split": split}, f"webdataset runs a command for {scheme}:")
        for scheme, root in (
            ("pipe", f"pipe:touch {MARK};"),
            ("gs", "gs://bucket/x"),
            ("hf", "hf://datasets/x"),
            ("s3", "s3://bucket/x"),
            ("ais", "ais://bucket/x"),
            ("htgs", "htgs://x"),
            ("sftp", "sftp://host/x"),
            ("scp", "scp://host/x"),
            ("ssh", "ssh://host/x"),
            ("hdfs", "hdfs://host/x"),
        )
        for split in ("train", "train-{0..1}.tar")
    ),
    ("in capitals", {"root": f"PIPE:touch {MARK};"}, "runs a command for pipe:"),
    ("in a split", {"root": "", "train_split": f"pipe:touch {MARK} .tar"}, "runs a command for pipe:"),
    ("behind colons", {"root": "", "train_split": f"a.tar::pipe:touch {MARK} .tar"}, "runs a command for"),
    ("in braces", {"root": "", "train_split": f"{{pipe,x}}:touch {MARK} .tar"}, "runs a command for pipe:"),
]


@pytest.mark.parametrize(("arguments", "words"), [row[1:] for row in LOCATIONS], ids=[row[0] for row in LOCATIONS])
def test_a_command_in_place_of_shards(arguments: dict[str, Any], words: str) -> None:
    pytest.importorskip("webdataset")
    given = {"dataset": "wds/x", "num_classes": 2, "val_split": "val-0.tar", **arguments}
    message = refused(lambda: TimmDataModule(**given))
    assert words in message
    assert "set data.allow_commands=true" in message
    assert not Path(MARK).exists()


INFOS: list[tuple[str, Any]] = [
    ("a list", [1]),
    ("splits list", {"splits": [1]}),
    ("no names", {"splits": {"train": {"num_samples": 1, "shard_lengths": [1], "name": "train"}}}),
    ("names numbers", {"splits": {"train": {"num_samples": 1, "filenames": [1], "shard_lengths": [1], "name": "t"}}}),
    (
        "lengths texts",
        {"splits": {"train": {"num_samples": 1, "filenames": ["a"], "shard_lengths": ["1"], "name": "t"}}},
    ),
    (
        "lengths few",
        {"splits": {"train": {"num_samples": 1, "filenames": ["a", "b"], "shard_lengths": [1], "name": "t"}}},
    ),
    ("count text", {"splits": {"train": {"num_samples": "1", "filenames": ["a"], "shard_lengths": [1], "name": "t"}}}),
]


@pytest.mark.parametrize("info", [row[1] for row in INFOS], ids=[row[0] for row in INFOS])
def test_an_info_file_of_shards(info: Any, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=rf"(dataset|root): .*{tmp_path}"):
        TimmDataModule(dataset="wds/x", root=str(tmp_path), num_classes=2, val_split="train")


STATES: list[tuple[str, Change, str]] = [
    ("version missing", drop("pytorch-lightning_version"), "pytorch-lightning_version: got None, expected a version"),
    ("version text", put("pytorch-lightning_version", "new"), "pytorch-lightning_version: got 'new'"),
    ("loops missing", drop("loops"), "loops: got None, expected a mapping"),
    ("loops list", put("loops", []), "loops: got [], expected a mapping"),
    ("loop missing", drop("loops", "fit_loop"), "loops.fit_loop: missing"),
    (
        "progress missing",
        drop("loops", "fit_loop", "epoch_progress"),
        "loops.fit_loop.epoch_progress: got None",
    ),
    (
        "progress list",
        put("loops", "fit_loop", "epoch_progress", [1]),
        "loops.fit_loop.epoch_progress: got [1], expected",
    ),
    (
        "counts missing",
        drop("loops", "fit_loop", "epoch_progress", "total"),
        "loops.fit_loop.epoch_progress: got ",
    ),
    (
        "count text",
        put("loops", "fit_loop", "epoch_progress", "total", {"ready": "x"}),
        "loops.fit_loop.epoch_progress: got ",
    ),
    ("loop number", put("loops", "fit_loop", 3), "loops: got {'fit_loop': 3"),
    ("callbacks list", put("callbacks", []), "callbacks: got [], expected a mapping"),
    ("callbacks numbers", put("callbacks", {"EMA": 3}), "callbacks: got {'EMA': 3}"),
    ("optimisers missing", drop("optimizer_states"), "optimizer_states: got None, expected a list of mappings"),
    ("optimisers mapping", put("optimizer_states", {}), "optimizer_states: got {}, expected a list"),
    ("optimisers numbers", put("optimizer_states", [1]), "optimizer_states: got [1], expected a list"),
    ("schedules missing", drop("lr_schedulers"), "lr_schedulers: got None, expected a list"),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_what_a_run_goes_on_from(change: Change, words: str, saved: bytes, tmp_path: Path) -> None:
    path = write(saved, change, tmp_path / "their.ckpt")
    message = refused(lambda: check_restorable(path, read_checkpoint(path), goes_on=True))
    assert f"ckpt_path: {path}: {words}" in message


def hide_class_names(content: Content) -> None:
    content["FakeDataModule"]["class_names"] = 3


COMMANDS: list[tuple[str, list[str]]] = [
    ("evaluate", ["evaluate", "{}", "{folder}", "--num-workers", "0"]),
    ("predict", ["predict", "{}", "{folder}", "--num-workers", "0"]),
    ("embed", ["embed", "{}", "{folder}", "--out", "{folder}/out.npz", "--num-workers", "0"]),
    ("analyze", ["analyze", "{}", "--out", "{folder}/out", "--data", "random"]),
    ("export", ["export", "{}", "{folder}/out"]),
    ("onnx", ["export", "{}", "{folder}/out", "--format", "onnx"]),
    ("finetune", ["finetune", "--model.name", "{}", "--data", "FakeDataModule", "--data.img_size", "16"]),
    *(
        (
            f"train {subcommand}",
            [
                *("train", subcommand, "--ckpt_path", "{}", *MODEL, "--model.model_args", json.dumps(ARGS)),
                *("--data", "FakeDataModule", "--data.img_size", "16", "--data.num_classes", "3"),
                *("--data.num_images", "16", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
                *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", "{folder}"),
            ],
        )
        for subcommand in ("fit", "validate", "test")
    ),
]


def test_what_only_lightning_can_see_is_a_message_too(
    saved: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here: an optimiser of other weights."""
    state = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}]}
    path = write(saved, put("optimizer_states", [state]), tmp_path / "their.ckpt")
    words = dict(COMMANDS)["train fit"]
    with pytest.raises(SystemExit) as stopped:
        main([fill(word, path, tmp_path / "run") for word in words] + ["--trainer.enable_model_summary", "false"])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "ckpt_path: the checkpoint cannot be restored: ValueError: loaded state dict has a different number" in last


def fill(word: str, path: Path, folder: Path) -> str:
    """A word of `COMMANDS` with its places filled in; those of JSON stay."""
    return word if '"' in word else word.format(path, folder=folder)


@pytest.mark.parametrize("words", [row[1] for row in COMMANDS], ids=[row[0] for row in COMMANDS])
def test_every_command_looks_a_checkpoint_through(
    words: list[str], saved: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "onnx" in words:
        pytest.importorskip("onnxscript")
    folder = tmp_path / "folder" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    path = write(saved, hide_class_names, tmp_path / "their.ckpt")
    with pytest.raises(SystemExit) as stopped:
        main([fill(word, path, folder.parent) for word in words])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"{path}: FakeDataModule.class_names: got 3, expected a list of 3 class names" in said.splitlines()[-1]
    assert "Traceback" not in said
