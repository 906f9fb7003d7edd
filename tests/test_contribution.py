import math

import pytest

from mhc_vision.contribution import NEGLIGIBLE, Contribution


@pytest.mark.parametrize(
    ("value", "error", "is_plain", "words"),
    [
        (0.09, 0.004, False, "the maps contribute"),
        (-0.09, 0.004, False, "the maps do harm"),
        # surely not 0, but not worth a word
        (NEGLIGIBLE / 2, 1e-6, True, "a plain model at a higher price"),
        (-NEGLIGIBLE / 2, 1e-6, True, "a plain model at a higher price"),
        (0.02, 0.011, True, "a plain model as far as these images tell"),
        (0.02, 0.009, False, "the maps contribute"),
        # one image: nothing is known of the spread
        (0.09, math.nan, False, "the maps contribute"),
        (math.nan, math.nan, False, "not finite"),
    ],
)
def test_reading(value, error, is_plain, words):
    contribution = Contribution(value, error)
    assert contribution.is_plain == is_plain
    assert contribution.words.startswith(words)
