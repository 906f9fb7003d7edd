"""Models go to the Hub and come back; a server on this machine stands in for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from fake_hub import FakeHub
from huggingface_hub import ModelCard, constants
from PIL import Image

from mhc_vision.cli import main

NAME = "somebody/digits-mhc"
NOISE = ("--data", "FakeDataModule", "--data.img_size", "8", "--data.num_classes", "3", "--data.num_images", "64")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    server = FakeHub()
    server.point_client(monkeypatch, str(tmp_path / "cache"))
    yield server
    server.close()


@pytest.fixture
def checkpoint(train: Callable[..., Path]) -> Path:
    return train(connection="mhc") / "checkpoints" / "last.ckpt"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The message of an export that must end with a status."""

    def run(status: int, *words: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["export", *map(str, words)])
        assert stopped.value.code == status
        return capsys.readouterr().err

    return run


def test_what_is_pushed_comes_back(hub, checkpoint, tmp_path, capsys):
    main(["export", str(checkpoint), str(tmp_path / "exported"), "--push", NAME])
    assert f"pushed: {hub.endpoint}/{NAME} (new)" in capsys.readouterr().out
    written = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    # the layout of timm's push_to_hf_hub
    assert set(written) == {"README.md", "config.json", "model.safetensors"}
    assert hub.files[NAME] == written
    assert not hub.private
    assert hub.commits == ["Add model"]
    model = timm.create_model(f"hf-hub:{NAME}", pretrained=True)
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"model.{name}"]) for name, value in model.state_dict().items())
    assert f"timm.create_model('hf-hub:{NAME}', pretrained=True)" in written["README.md"].decode()
    assert written["README.md"].decode().split("---")[2].startswith("\n\n# digits-mhc\n")


def write_photo(path: Path, colour: str) -> Path:
    Image.new("RGB", (12, 10), colour).save(path)
    return path


def test_predictions_from_the_hub(hub, train, tmp_path, capsys):
    """A widget shows what `predict` says, which loads the model by the same name as timm."""
    photos = [write_photo(tmp_path / f"{colour}.png", colour) for colour in ("red", "blue")]
    checkpoint = train(*NOISE, connection="dhc") / "checkpoints" / "last.ckpt"
    main(["export", str(checkpoint), str(tmp_path / "exported"), "--push", NAME, "--examples", *map(str, photos)])
    assert hub.files[NAME]["examples/red.png"] == photos[0].read_bytes()
    capsys.readouterr()
    main(["predict", f"hf-hub:{NAME}", *map(str, photos), "--format", "json"])
    predicted = json.loads(capsys.readouterr().out)["images"]
    assert ModelCard(hub.files[NAME]["README.md"].decode()).data.widget == [
        {
            "src": f"examples/{colour}.png",
            "example_title": colour,
            "output": [{"label": entry["class"], "score": entry["probability"]} for entry in image["predictions"]],
        }
        for colour, image in zip(("red", "blue"), predicted, strict=True)
    ]


def test_examples_that_cannot_be_shown_are_named(checkpoint, tmp_path, refused, train):
    photo = write_photo(tmp_path / "photo.png", "red")
    (tmp_path / "other").mkdir()
    (tmp_path / "broken.png").write_bytes(b"nothing")
    of_photos = train(*NOISE, run_dir=tmp_path / "noise") / "checkpoints" / "last.ckpt"
    for trained, examples, message in (
        (of_photos, [photo, write_photo(tmp_path / "other" / "photo.png", "red")], "examples: got photo.png more than"),
        (of_photos, [photo, tmp_path / "broken.png"], "examples: some cannot be read"),
        (of_photos, [tmp_path / "other"], "expected image files"),
        (of_photos, [tmp_path / "none.png"], "which is not there"),
        (checkpoint, [photo], "expected 3: files are read as RGB"),
    ):
        assert message in refused(2, trained, tmp_path / "exported", "--examples", *examples)
        assert not (tmp_path / "exported").exists()


def test_a_repository_that_is_there_is_updated(hub, checkpoint, tmp_path, capsys):
    hub.files[NAME] = {
        "README.md": b"---\nlicense: mit\ntags: [mine]\nwidget:\n- src: old.png\n---\nMine.\n",
        "notes.txt": b"stay",
    }
    main(["export", str(checkpoint), str(tmp_path / "exported"), "--push", NAME])
    assert "(updated: it was there already)" in capsys.readouterr().out
    assert hub.commits == ["Update model"]
    assert hub.files[NAME]["notes.txt"] == b"stay"
    card = ModelCard(hub.files[NAME]["README.md"].decode())
    # the owner's word about the model stays, what was said of other weights goes
    assert card.data.license == "mit"
    assert "widget" not in card.data.to_dict()
    assert card.data.tags == ["image-classification", "timm", "hyper-connections"]
    assert "# digits-mhc" in card.text
    assert "Mine" not in card.text


def test_private(hub, checkpoint, tmp_path, refused):
    main(["export", str(checkpoint), str(tmp_path / "one"), "--push", NAME, "--private"])
    assert hub.private == {NAME}
    hub.private.clear()
    message = refused(2, checkpoint, tmp_path / "two", "--push", NAME, "--private")
    assert f"private: got it for {NAME}, which is there already and public" in message
    assert hub.commits == ["Add model"]
    assert (tmp_path / "two" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push", "digits"], "push: got 'digits', expected OWNER/NAME: the owner is missing"),
        (["--push", "a/b/c"], "push: got 'a/b/c', expected OWNER/NAME"),
        (["--push", "some body/x"], "push: got 'some body/x', expected OWNER/NAME"),
        (["--private"], "private: got it without --push"),
        (["--push", NAME, "--format", "onnx"], f"push: got '{NAME}' with --format onnx"),
        (["--push", NAME], f"push: got {NAME} without a token of the Hugging Face Hub; log in with `hf auth login`"),
    ],
)
def test_mistakes_are_named_before_any_work(words, message, tmp_path, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    # of a checkpoint that is not there nothing is said yet
    assert message in refused(2, tmp_path / "none.ckpt", tmp_path / "exported", *words)


def test_a_hub_that_fails_leaves_the_export(hub, checkpoint, tmp_path, refused, monkeypatch):
    for answer, status, message in (
        ((401, "Invalid token"), 2, "the Hub does not accept the token (401); log in with `hf auth login`"),
        ((403, "Forbidden"), 2, "the token may not write there (403)"),
        ((429, "Too many requests today"), 2, "Too many requests today (429)"),
        ((500, "Broken"), 1, "(500)"),
    ):
        hub.refuse = answer
        exported = tmp_path / f"exported {answer[0]}"
        said = refused(status, checkpoint, exported, "--push", NAME, "--private")
        assert message in said
        assert f"push it later with `hf upload {NAME} '{exported}' . --private`" in said
        assert (exported / "model.safetensors").is_file()
    # the discard port: nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refused(1, checkpoint, tmp_path / "exported", "--push", NAME)
    assert f"push: {NAME}: the Hub gives no usable answer: " in said
    assert "Traceback" not in said
    assert (tmp_path / "exported" / "model.safetensors").is_file()
