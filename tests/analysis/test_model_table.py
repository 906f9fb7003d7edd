from pathlib import Path

import pytest
import timm

from mhc_vision.analysis.model_table import model_table

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_of_models_shows_the_table_of_all_registered_ones():
    table = model_table()
    assert table in PAGE.read_text(encoding="utf-8")
    for name in timm.list_models("*_mhc"):
        assert f"`{name.removesuffix('_mhc')}_*`" in table


def test_figures_of_vit_base(monkeypatch):
    base = {"vit_base_patch16_224": {}}
    monkeypatch.setattr("mhc_vision.analysis.model_table.VISION_TRANSFORMERS", base)
    monkeypatch.setattr("mhc_vision.analysis.model_table.EVAS", {})
    row = model_table().splitlines()[-1]
    # timm's published figure for this model is 17.56 GMACs (17.58 with the additions it counts)
    assert "224x224" in row
    assert " 86,567,656 " in row
    assert " 17.56 " in row
    # 24 branches of n·C(n² + 2n) + n² + 2n + 3 parameters
    assert f"{24 * (4 * 768 * 24 + 24 + 3):,} (2 %)" in row
    # 197 tokens, 24 branches, C = 768: (24·4 + 4 + 20)·C each
    assert f"{197 * 24 * 120 * 768 / 1e9:.2g} (2.5 %)" in row
    assert f"{24 * (2 * 768 * 8 + 8 + 3):,}" in model_table(num_streams=2)
    with pytest.raises(ValueError, match="num_streams: got 0"):
        model_table(num_streams=0)
