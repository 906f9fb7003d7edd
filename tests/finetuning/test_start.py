from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

import mhc_vision
from mhc_vision.finetuning.start import start_from
from mhc_vision.models.create import rebuild_classifier


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_vit", img_size=32, num_classes=7).eval()


@pytest.fixture(scope="module")
def files(plain: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `plain` in every form."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(plain.state_dict(), folder / "weights.safetensors")
    torch.save({"state_dict": plain.state_dict()}, folder / "weights.pth")
    torch.save({key: value for key, value in plain.state_dict().items() if "head" not in key}, folder / "backbone.pth")
    save_for_hf(plain, str(folder / "exported"), model_config={}, safe_serialization=True)
    return folder


@pytest.mark.parametrize("connection", [None, "shc", "dhc", "mhc"])
@pytest.mark.parametrize("source", ["weights.safetensors", "weights.pth", "exported"])
def test_the_start_computes_what_the_weights_compute(plain, files, source, connection):
    if source == "exported":
        start = start_from(str(files / source), num_classes=7, img_size=32, connection=connection)
    else:
        start = start_from("test_vit", weights_file=files / source, num_classes=7, img_size=32, connection=connection)
    images = torch.randn(2, 3, 32, 32)
    assert start.model.training
    assert not start.new_head
    # the invariant of every connection, in fp32
    assert (start.model.eval()(images) - plain(images)).abs().max() < 1e-5
    assert start.settings["connection"] == connection


@pytest.mark.parametrize("connection", [None, "mhc"])
def test_other_classes_get_a_head_of_zeros_on_the_same_features(plain, files, connection):
    start = start_from(str(files / "exported"), num_classes=4, img_size=32, connection=connection)
    assert start.new_head
    assert start.model.num_classes == 4
    assert not start.model.head.weight.any()
    assert not start.model.head.bias.any()
    images = torch.randn(2, 3, 32, 32)
    features = start.model.eval().forward_features(images)
    torch.testing.assert_close(features, plain.forward_features(images), rtol=0, atol=1e-5)


def test_as_many_other_classes_can_get_a_new_head_too(files):
    start = start_from(str(files / "exported"), num_classes=7, img_size=32, new_head=True)
    assert start.new_head
    assert not start.model.head.weight.any()


def test_position_embeddings_are_resampled_as_timm_does(plain, files):
    start = start_from(str(files / "exported"), num_classes=7, img_size=64, connection="mhc")
    expected = timm.create_model(f"local-dir:{files / 'exported'}", pretrained=True, img_size=64)
    torch.testing.assert_close(start.model.pos_embed, expected.pos_embed)
    images = torch.randn(2, 3, 64, 64)
    assert (start.model.eval()(images) - expected.eval()(images)).abs().max() < 1e-5


def test_a_registered_name_with_connections_starts_from_the_plain_weights(plain, files):
    options = {"sinkhorn_iters": 3, "drop_path_rate": 0.2}
    start = start_from(
        "test_vit_mhc", weights_file=files / "weights.pth", num_classes=7, img_size=32, model_args=options
    )
    assert (start.settings["name"], start.settings["connection"]) == ("test_vit", "mhc")
    assert start.model.blocks[0].connection1.constraint.num_iters == 3
    images = torch.randn(2, 3, 32, 32)
    assert (start.model.eval()(images) - plain(images)).abs().max() < 1e-5


def test_weights_without_a_head_and_images_of_one_channel(files):
    start = start_from("test_vit", weights_file=files / "backbone.pth", num_classes=3, in_chans=1, img_size=32)
    assert start.new_head
    assert start.model(torch.randn(1, 1, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("connection", [None, "mhc"])
def test_the_settings_build_the_architecture_again(files, connection):
    start = start_from(
        str(files / "exported"), num_classes=4, img_size=48, connection=connection, num_streams=2,
        model_args={"sinkhorn_iters": 5} if connection else None,
    )  # fmt: skip
    rebuilt = rebuild_classifier(**start.settings)
    rebuilt.load_state_dict(start.model.state_dict())
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(rebuilt.eval()(images), start.model.eval()(images))


def test_a_model_that_timm_has_no_connected_name_for_can_be_connected_and_built_again(tmp_path):
    name = "vit_betwixt_patch32_clip_224"
    arguments = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    weights = timm.create_model(name, num_classes=3, img_size=32, **arguments)
    save_file(weights.state_dict(), tmp_path / "weights.safetensors")
    assert not timm.is_model(f"{name}_shc")
    start = start_from(
        name, weights_file=tmp_path / "weights.safetensors", num_classes=3, img_size=32, connection="shc",
        model_args=arguments,
    )  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    assert (start.model.eval()(images) - weights.eval()(images)).abs().max() < 1e-5
    rebuilt = rebuild_classifier(**start.settings)
    rebuilt.load_state_dict(start.model.state_dict())


def test_what_does_not_fit_is_refused(files, tmp_path):
    def message(**arguments: object) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            start_from(**{"num_classes": 7, "img_size": 32, **arguments})
        return str(caught.value)

    (tmp_path / "junk.pth").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("empty.pth", "list.pth", "broken.npz"):
        assert f"{name}, expected weights of" in message(name="test_vit", weights_file=tmp_path / name)
    exported, weights = str(files / "exported"), files / "weights.pth"
    assert "nearest: vit_base_patch16_224" in message(name="vit_base_patch16_244")
    assert "none.pth, expected a file that is there" in message(name="test_vit", weights_file=tmp_path / "none.pth")
    assert "junk.pth, expected weights of test_vit" in message(name="test_vit", weights_file=tmp_path / "junk.pth")
    assert "expected weights of vit_tiny_patch16_224" in message(name="vit_tiny_patch16_224", weights_file=weights)
    assert "with its own weights, expected a timm name" in message(name=exported, weights_file=weights)
    assert "expected 'mhc' or the plain model's name" in message(
        name="test_vit_mhc", connection="shc", weights_file=weights
    )
    assert "expected one of shc, dhc, mhc" in message(name=exported, connection="foo")
    assert "model_args: got ['img_size']" in message(name=exported, model_args={"img_size": 32})
    assert "got tanh without a connection" in message(name=exported, model_args={"tanh": True})
    assert "expected a multiple of its patches' 16 pixels" in message(name=exported, img_size=40)


def test_connections_that_are_there_must_be_those_asked_for(files, tmp_path):
    hyper = mhc_vision.hyperconnect(timm.create_model("test_vit", img_size=32, num_classes=7), "dhc", num_streams=2)
    save_for_hf(hyper, str(tmp_path / "hyper"), model_config={}, safe_serialization=True)
    start = start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32)
    assert (start.settings["name"], start.settings["connection"], start.settings["num_streams"]) == (
        "test_vit",
        "dhc",
        2,
    )
    start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, connection="dhc", num_streams=2)
    with pytest.raises(ValueError, match=r"connection: got 'mhc', expected 'dhc', "):
        start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, connection="mhc", num_streams=2)
    # null is a name, too: the plain model's
    with pytest.raises(ValueError, match=r"connection: got null, expected 'dhc', as .* was trained; name that, leave"):
        start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, connection=None)
    with pytest.raises(ValueError, match=r"connection: got null for test_vit_mhc, expected 'mhc' or the plain model's"):
        start_from("test_vit_mhc", num_classes=7, img_size=32, connection=None)
    with pytest.raises(ValueError, match=r"num_streams: got 4, expected 2, with which .* was trained"):
        start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, num_streams=4)
    with pytest.raises(ValueError, match=r"num_streams: got 4, expected 2, with which .* was trained"):
        start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, connection="dhc", num_streams=4)


def test_an_option_that_is_not_recorded_has_its_default(files, tmp_path):
    hyper = mhc_vision.hyperconnect(timm.create_model("test_vit", img_size=32, num_classes=7), "mhc")
    save_for_hf(hyper, str(tmp_path / "hyper"), model_config={}, safe_serialization=True)
    same = {"constraint": "sinkhorn", "stream_reduce": "mean", "stream_expand": "copy", "sinkhorn_iters": 20}
    start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, model_args=same)
    with pytest.raises(ValueError, match=r"constraint: got 'identity', expected 'sinkhorn', with which .* was trained"):
        start_from(str(tmp_path / "hyper"), num_classes=7, img_size=32, model_args={"constraint": "identity"})


NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]


@pytest.fixture(scope="module")
def named(plain: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("named")
    save_for_hf(plain, str(folder / "exported"), model_config={"label_names": NAMES}, safe_serialization=True)
    return str(folder / "exported")


@pytest.mark.parametrize("connection", [None, "mhc"])
def test_the_same_classes_in_another_order_have_their_logits_in_that_order(plain, named, connection):
    order = [3, 0, 6, 1, 5, 2, 4]
    start = start_from(
        named, num_classes=7, img_size=32, connection=connection, class_names=[NAMES[index] for index in order]
    )
    assert not start.new_head
    assert start.head == "kept (the same 7 classes, its outputs put in the data's order)"
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(start.model.eval()(images), plain(images)[:, order], rtol=0, atol=1e-5)


def test_both_heads_of_a_distilled_model_are_put_in_order(tmp_path):
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=3, depth=1)
    save_for_hf(model, str(tmp_path / "deit"), model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    start = start_from(str(tmp_path / "deit"), num_classes=3, img_size=32, class_names=["c", "a", "b"])
    for ours, theirs in zip(start.model.get_classifier(), model.get_classifier(), strict=True):
        assert torch.equal(ours.weight, theirs.weight[[2, 0, 1]])
        assert torch.equal(ours.bias, theirs.bias[[2, 0, 1]])


@pytest.mark.parametrize(
    ("names", "new_head", "head"),
    [
        (NAMES, False, "kept (the same 7 classes)"),
        (None, False, "kept (the data does not name its classes)"),
        ([f"class {index}" for index in range(7)], False, "kept (the data does not name its classes)"),
        ([*NAMES[:6], "owl"], True, "new (the start has gnu, the data has owl in their place)"),
        (NAMES[:5], True, "new (the start has 7 classes, the data 5)"),
    ],
)
def test_a_head_of_other_classes_gives_way(named, names, new_head, head):
    start = start_from(named, num_classes=7 if names is None else len(names), img_size=32, class_names=names)
    assert (start.new_head, start.head) == (new_head, head)
    assert start.model.head.weight.any() != new_head


def test_a_start_without_names_keeps_its_head(files):
    start = start_from(str(files / "exported"), num_classes=7, img_size=32, class_names=NAMES)
    assert start.head == "kept (the start does not name its classes)"
    with pytest.raises(ValueError, match="class_names: got 2 class names, expected one for each of 7 classes"):
        start_from(str(files / "exported"), num_classes=7, img_size=32, class_names=NAMES[:2])
