import pytest

from mhc_vision.inference.load_model import load_model
from mhc_vision.models.designs import DESIGNS


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_without_a_name_in_timm_is_refused_not_replaced_by_the_plain_model(design):
    with pytest.raises(ValueError, match=f"connection: got '{design}' for test_vit, .* expected one of shc, dhc, mhc"):
        load_model("test_vit", connection=design, weights="initial")
