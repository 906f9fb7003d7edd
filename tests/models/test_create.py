import pytest
import torch

import mhc_vision  # noqa: F401  registers the models
from mhc_vision.models.create import create_classifier, freeze_sincos_pos_embed

SMALL = {"connection": None, "num_streams": 4, "num_classes": 3, "in_chans": 1, "img_size": 8}


def test_the_connection_chooses_the_registered_model_and_its_streams():
    plain = create_classifier("test_vit", **SMALL, model_args={"patch_size": 4})
    hyper = create_classifier(
        "test_vit", **SMALL | {"connection": "shc", "num_streams": 2}, model_args={"patch_size": 4}
    )
    added = {name for name, _ in hyper.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert added
    assert all("connection" in name for name in added)
    assert sum(hyper.get_parameter(name).numel() for name in added) == 12 * 2 * (2 + 2)  # n(n+2) a branch
    assert hyper(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"name: got 'vit_bse_patch16_224', expected a timm model; nearest: .*vit_base_patch16_224"
    ):
        create_classifier("vit_bse_patch16_224", **SMALL)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("test_vit_mhc", {}, "give name 'test_vit' with connection 'mhc'"),
        (
            "test_vit",
            {"connection": "hc"},
            "connection: got 'hc', expected one of shc, dhc, mhc, post_norm, parallel, ",
        ),
        (
            "resnet18",
            {"connection": "mhc"},
            "name: got 'resnet18', expected a model with the connection 'mhc'; models with one: .*test_vit",
        ),
        ("test_vit", {"model_args": {"num_classes": 7}}, r"model_args: got \['num_classes'\]"),
        ("test_vit", {"model_args": {"sinkhorn_itres": 7}}, "sinkhorn_itres"),
        ("test_vit", {"connection": "mhc", "model_args": {"sinkhorn_itres": 7}}, "sinkhorn_itres"),
    ],
)
def test_bad_input_is_a_value_error_that_says_what_came(name, change, message):
    with pytest.raises(ValueError, match=message):
        create_classifier(name, **SMALL | change)


def test_a_convolutional_model_works_at_its_own_size():
    model = create_classifier("test_resnet", **SMALL | {"img_size": 160, "in_chans": 3})
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 3)


def test_the_sincos_table_tells_positions_apart_and_stays_fixed():
    model = create_classifier(
        "test_vit", **SMALL, model_args={"patch_size": 2, "class_token": False, "global_pool": "avg"}
    )
    freeze_sincos_pos_embed(model)
    assert not model.pos_embed.requires_grad
    rows = model.pos_embed[0]
    torch.testing.assert_close(rows.square().sum(-1), torch.full((16,), 32.0))  # a sine and a cosine for each angle
    similarity = rows @ rows.T - 100 * torch.eye(16)
    assert similarity.max() < 31.9


def test_a_class_token_has_no_place_on_the_grid():
    with pytest.raises(ValueError, match=r"17 positions .* each of the 16 patches .*class_token"):
        freeze_sincos_pos_embed(create_classifier("test_vit", **SMALL, model_args={"patch_size": 2}))
