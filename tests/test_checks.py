import numpy as np
import pytest

from mhc_vision.checks import check_number, check_whole_number, nearest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.0, True, "0.5", None])
def test_number_refused(value):
    with pytest.raises(ValueError, match=r"^momentum: got .*, expected a finite number at least 0 and below 1$"):
        check_number("momentum", value, at_least=0, below=1)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.25)])
def test_number_taken(value):
    check_number("momentum", value, at_least=0, below=1)


def test_bounds():
    check_number("share", 1, above=0, at_most=1)
    with pytest.raises(ValueError, match="share: got 0, expected a finite number above 0 and at most 1"):
        check_number("share", 0, above=0, at_most=1)


@pytest.mark.parametrize("value", [True, 2.0, float("nan"), 0, 9, "3", None])
def test_whole_number_refused(value):
    with pytest.raises(ValueError, match=r"^streams: got .*, expected a whole number from 1 to 8$"):
        check_whole_number("streams", value, at_least=1, at_most=8)


def test_whole_number_taken():
    check_whole_number("streams", np.int64(8), at_least=1, at_most=8)


def test_nearest():
    assert nearest("sinkhron", ["sinkhorn", "identity"]) == "; nearest: sinkhorn"
    assert nearest("zzz", ["sinkhorn", "identity"]) == ""
