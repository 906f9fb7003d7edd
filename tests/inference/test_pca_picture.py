"""Principal components as colours, and the picture that they are in."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mhc_vision.inference.pca_picture import pca_picture, principal_colours

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (2, 20, 20, 3), dtype=np.uint8)
# of unequal variance, so that the order of the components is no chance
FEATURES = (RANDOM.normal(size=(2, 5, 4, 8)) * 2.0 ** -np.arange(8)).astype(np.float32)


def test_colours_are_the_first_three_components():
    colours = principal_colours(FEATURES)
    assert colours.shape == (2, 5, 4, 3)
    assert (colours.min(), colours.max()) == (0, 1)
    scores = PCA(3).fit_transform(FEATURES.reshape(-1, 8))
    for colour, score in zip(colours.reshape(-1, 3).T, scores.T, strict=True):
        inner = (colour > 0) & (colour < 1)
        # the others lie beyond the quantiles
        assert inner.sum() == len(colour) - 2
        assert abs(np.corrcoef(colour[inner], score[inner])[0, 1]) == pytest.approx(1, abs=1e-6)


def test_equal_features_have_equal_colours_at_any_scale():
    np.testing.assert_allclose(principal_colours(FEATURES), principal_colours(3e-9 * FEATURES + 1e-9), atol=1e-3)


def test_models_stand_beside_each_other():
    attention = {"mhc": RANDOM.random((2, 5, 4))}
    figure = pca_picture({"plain": FEATURES, "mhc": RANDOM.normal(size=(2, 7, 7, 5))}, IMAGES, attention)
    rows = [figure.axes[:4], figure.axes[4:]]
    assert [axes.get_title() for axes in rows[0]] == ["image", "plain", "mhc", "attention"]
    for row, image, colours, seen in zip(rows, IMAGES, principal_colours(FEATURES), attention["mhc"], strict=True):
        shown = [axes.images[0].get_array() for axes in row]
        assert np.array_equal(shown[0], image)
        np.testing.assert_array_equal(shown[1], colours)
        assert shown[2].shape == (7, 7, 3)
        np.testing.assert_array_equal(shown[3], seen)


@pytest.mark.parametrize(
    ("features", "images", "attention", "message"),
    [
        ({}, IMAGES, {}, "features_by_model: got none"),
        ({"a": FEATURES[:1]}, IMAGES, {}, r"a: got the shape \(1, 5, 4, 3\), expected 2 maps, one per image"),
        ({"a": FEATURES[0]}, IMAGES, {}, r"features: got the shape \(5, 4, 8\), expected \(N, gh, gw, C\)"),
        ({"a": FEATURES[..., :2]}, IMAGES, {}, "with C from 3"),
        ({"a": FEATURES * np.inf}, IMAGES, {}, "features: got NaN or infinity"),
        ({"a": FEATURES}, IMAGES[0], {}, r"images: got the shape \(20, 20, 3\)"),
        ({"a": FEATURES}, IMAGES, {"a": np.zeros((2, 20))}, r"attention: got the shape \(2, 20\)"),
    ],
)
def test_what_does_not_fit_is_named(features, images, attention, message):
    with pytest.raises(ValueError, match=message):
        pca_picture(features, images, attention)
