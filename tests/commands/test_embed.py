import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from mhc_vision.cli import main
from mhc_vision.inference.embed import embed_files
from mhc_vision.inference.options import InferenceOptions

QUICK = ("--num-workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """Eight images of two colours; two files that are none, one of them in a class folder; an image in neither."""
    folder = write_images(tmp_path_factory.mktemp("photos") / "photos", ("blue", "red"), count=4)
    (folder / "README.txt").write_text("my photos")
    (folder / "red" / "text.jpg").write_text("no image")
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "stray.png")
    return folder


@pytest.fixture(scope="module")
def model(timm_directory: Callable[..., Path]) -> Path:
    return timm_directory(3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hyper-connected ViT without classes."""
    torch.manual_seed(0)
    made = timm.create_model("test_vit_mhc", num_classes=0, img_size=16, patch_size=8, depth=1)
    directory = tmp_path_factory.mktemp("backbone")
    config = {"pretrained_cfg": {"input_size": [3, 16, 16]}}
    save_for_hf(made, str(directory), model_config=config, safe_serialization=True)
    return directory


@pytest.fixture
def refused(refused_by: Callable[..., str]) -> Callable[..., str]:
    return partial(refused_by, "embed")


def by_hand(directory: Path, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of image files after the last norm, and the images, by timm's model of a directory."""
    network = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(network)
    side = int(16 / config["crop_pct"])
    pixels = [pil_to_tensor(Image.open(name).convert("RGB")) for name in names]
    images = [center_crop(resize(image, [side], antialias=True, interpolation=3), 16) for image in pixels]
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return network.forward_features((torch.stack(images) / 255 - mean) / std), torch.stack(images)


@pytest.mark.parametrize("features", ["head", "cls", "mean", "patches"])
@pytest.mark.parametrize("which", ["model", "backbone"])
def test_features_of_files_are_written(which, features, photos, tmp_path, request, capsys):
    directory = request.getfixturevalue(which)
    out = tmp_path / "new" / "features.npz"
    main(["embed", str(directory), str(photos), "--out", str(out), "--features", features, *QUICK, "--batch-size", "4"])
    shown = capsys.readouterr()
    with np.load(out, allow_pickle=False) as file:
        found, names, record = file["features"], file["images"].tolist(), json.loads(str(file["record"]))
    assert names == sorted(map(str, [*photos.glob("*/*.png"), photos / "stray.png"]))
    tokens, _ = by_hand(directory, names)
    expected = {
        **{"head": tokens[:, 0], "cls": tokens[:, 0]},
        **{"mean": tokens[:, 1:].mean(1), "patches": tokens[:, 1:].unflatten(1, (2, 2))},
    }[features]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (record["features"], record["shape"], record["retrieval"]) == (features, list(found.shape[1:]), None)
    assert record["connection"] == (None if which == "model" else "mhc")
    assert record["settings"]["img_size"] == 16
    assert record["command"][:2] == ["mhc-vision", "embed"]
    assert {"mhc_vision", "torch", "timm"} <= record["versions"].keys()
    assert shown.out == f"embeddings: {out}, {' x '.join(map(str, found.shape))}\n"
    said = shown.err.splitlines()
    assert said[-4:-2] == ["mhc-vision: 9 of 11 files read", "mhc-vision: 2 left out:"]
    broken = (photos / "README.txt", photos / "red" / "text.jpg")
    assert all(line.startswith(f"cannot decode {path}: ") for line, path in zip(said[-2:], broken, strict=True))


def test_parquet_has_the_same(backbone, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("a.npz", "a.parquet"):
        main(["embed", str(backbone), str(photos), "--features", "patches", "--out", str(tmp_path / name), *QUICK])
    table = parquet.read_table(tmp_path / "a.parquet")
    with np.load(tmp_path / "a.npz") as file:
        assert table["image"].to_pylist() == file["images"].tolist()
        assert np.array_equal(np.stack(table["features"].to_numpy()).reshape(file["features"].shape), file["features"])
    assert json.loads(table.schema.metadata[b"record"])["shape"] == [2, 2, 64]


def test_a_missing_package_is_named_before_the_work(model, photos, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.inference.embed.embed_files", None)
    for name in ("pyarrow", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "Parquet files need pyarrow: pip install pyarrow" in refused(model, photos, "--out", tmp_path / "a.parquet")
    message = refused(model, photos, "--out", tmp_path / "a.npz", "--picture", tmp_path / "a.png")
    assert "figures need matplotlib: pip install 'mhc-vision[plots]'" in message


def test_file_names_that_are_no_text_do_not_stop_it(model, photos, tmp_path):
    name = str(tmp_path / "caf\udce9.png")
    Path(name).write_bytes((photos / "stray.png").read_bytes())
    main(["embed", str(model), name, "--out", str(tmp_path / "a.npz"), *QUICK])
    assert np.load(tmp_path / "a.npz")["images"].tolist() == [name]


def test_neighbours_of_the_same_class_are_counted(model, photos, tmp_path, capsys):
    main(
        [
            "embed",
            str(model),
            str(photos),
            "--features",
            "mean",
            "--retrieval",
            "--out",
            str(tmp_path / "a.npz"),
            *QUICK,
        ]
    )
    with np.load(tmp_path / "a.npz") as file:
        features = torch.from_numpy(file["features"])
        names, retrieval = file["images"].tolist(), json.loads(str(file["record"]))["retrieval"]
    # the stray image and what cannot be read have no class; of eight images, twenty neighbours are not to be had
    inside = [index for index, name in enumerate(names) if Path(name).parent != photos]
    assert (retrieval["num_images"], retrieval["num_classes"], [*retrieval["top1"]]) == (8, 2, ["1", "5"])
    similarity = torch.nn.functional.cosine_similarity(features[inside, None], features[None, inside], dim=2)
    nearest = similarity.fill_diagonal_(-2).argmax(1).tolist()
    right = [Path(names[inside[i]]).parent == Path(names[inside[near]]).parent for i, near in enumerate(nearest)]
    assert retrieval["top1"]["1"] == pytest.approx(sum(right) / 8)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"retrieval, 1 nearest: top1 {100 * sum(right) / 8:.2f} %"
    assert said[2] == "retrieval: 8 images of 2 classes, each left out once"


def test_a_picture_shows_the_first_images(backbone, photos, tmp_path, monkeypatch, capsys):
    drawn = []
    draw = mhc_vision_picture()
    monkeypatch.setattr(
        "mhc_vision.inference.pca_picture.pca_picture", lambda *given: drawn.append(given) or draw(*given)
    )
    picture = tmp_path / "picture.png"
    words = ["embed", str(backbone), str(photos), "--out", str(tmp_path / "a.npz"), "--picture", str(picture), *QUICK]
    main([*words, "--num-pictured", "3", "--attention"])
    assert f"picture: {picture}" in capsys.readouterr().out
    with Image.open(picture) as image:
        assert image.width > 300
    (patches_by_model, images, attention_by_model), names = drawn[0], np.load(tmp_path / "a.npz")["images"].tolist()
    tokens, expected = by_hand(backbone, names[:3])
    ((title, patches),) = patches_by_model.items()
    assert title == "test_vit\nmhc"
    np.testing.assert_allclose(patches, tokens[:, 1:].unflatten(1, (2, 2)), atol=1e-5)
    assert np.array_equal(images, expected.permute(0, 2, 3, 1))
    assert attention_by_model[title].shape == (3, 2, 2)


def mhc_vision_picture() -> Callable[..., object]:
    from mhc_vision.inference.pca_picture import pca_picture

    return pca_picture


def test_from_python_two_models_are_drawn_together(model, backbone, photos):
    options = InferenceOptions(num_workers=0, device="cpu")
    plain, connected = (embed_files(str(name), [photos], options=options, num_pictured=2) for name in (model, backbone))
    assert (plain.pictured.attention, plain.images) == (None, connected.images)
    figure = mhc_vision_picture()(
        {"plain": plain.pictured.patches, "mhc": connected.pictured.patches}, plain.pictured.images
    )
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "plain", "mhc"]


def test_nothing_is_overwritten_unless_asked(model, photos, refused, tmp_path, monkeypatch):
    out, picture = tmp_path / "a.npz", tmp_path / "a.png"
    out.write_text("precious")
    with monkeypatch.context() as patch:
        # refused before any work
        patch.setattr("mhc_vision.inference.embed.embed_files", None)
        assert "is there already, expected a new file, or --force" in refused(model, photos, "--out", out)
        assert out.read_text() == "precious"
        out.rename(picture)
        assert "picture: got " in refused(model, photos, "--out", out, "--picture", picture)
    main(["embed", str(model), str(photos), "--out", str(out), "--picture", str(picture), "--force", *QUICK])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == [out, picture]


def test_nothing_is_written_when_nothing_can_be_read(model, photos, refused, tmp_path):
    message = refused(model, photos / "README.txt", "--out", tmp_path / "a.npz")
    assert "images: none of the 1 files can be read" in message
    assert not list(tmp_path.iterdir())


def test_bad_input_is_named_before_a_file_is_read(model, photos, timm_directory, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.inference.embed.decode_file", None)
    out = ("--out", tmp_path / "a.npz")
    (tmp_path / "split" / "train" / "ant").mkdir(parents=True)
    (tmp_path / "split" / "train" / "ant" / "0.png").touch()
    for words, expected in (
        ([model, photos], "the following arguments are required: --out"),
        ([model, photos, "--out", tmp_path / "a.npy"], "a.npy, expected a name that ends in .npz or .parquet"),
        (["test_vti", photos, *out], "nearest: test_vit"),
        ([model, photos / "missing", *out], "missing, which is not there, expected files or folders"),
        ([model, photos, *out, "--features", "clss"], "nearest: cls"),
        ([model, photos, *out, "--batch-size", "0"], "batch_size: got 0"),
        ([model, photos, *out, "--attention"], "attention: got it without --picture"),
        ([model, photos, *out, "--picture", tmp_path / "a.svg"], "a.svg, expected a name that ends in .png"),
        (
            [model, photos, *out, "--picture", tmp_path / "a.png", "--num-pictured", "0"],
            "num_pictured: got 0, expected a whole number from 1",
        ),
        (
            [model, photos, *out, "--picture", tmp_path / "a.png", "--num-pictured", "9"],
            "num_pictured: got 9, expected a whole number from 0 to 8",
        ),
        ([model, photos, *out, "--retrieval", "--features", "patches"], "retrieval: got it with patches"),
        ([model, photos / "red", *out, "--retrieval"], "retrieval: got 0 class folders with files in"),
        ([model, photos / "red", photos / "blue", *out, "--retrieval"], "expected one folder of class folders"),
        ([model, tmp_path / "split", *out, "--retrieval"], f"with train/, expected class folders; give {tmp_path}"),
        ([timm_directory(3, in_chans=1), photos, *out], "for images of 1 channel(s), expected 3"),
    ):
        assert expected in refused(*words)


def test_features_that_are_not_finite_are_refused(model, photos, refused, tmp_path, monkeypatch):
    forward = timm.models.VisionTransformer.forward_features
    monkeypatch.setattr(timm.models.VisionTransformer, "forward_features", lambda *given: forward(*given) * torch.inf)
    message = refused(model, photos, "--out", tmp_path / "a.npz")
    assert "gives features with NaN or infinity for 9 of 11 images" in message
    assert not list(tmp_path.iterdir())
