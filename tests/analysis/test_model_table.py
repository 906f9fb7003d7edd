from collections.abc import Callable
from pathlib import Path

import pytest
import timm

import mhc_vision.analysis.model_table as model_table_file
from mhc_vision.analysis.model_table import model_table

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def only(monkeypatch) -> Callable[..., None]:
    """Makes the table one of these architectures alone."""

    def keep(*names: str) -> None:
        for table in ("VISION_TRANSFORMERS", "EVAS"):
            known = getattr(model_table_file, table)
            monkeypatch.setattr(model_table_file, table, {name: known[name] for name in names if name in known})

    return keep


def test_the_page_of_models_shows_rows_of_the_table(only):
    shown = [cells(line) for line in PAGE.read_text(encoding="utf-8").splitlines()]
    only("test_vit", "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256", "vit_tiny_patch16_dinov3_qkvb")
    head, _, *rows = model_table().splitlines()
    assert len(rows) == 4
    assert all(cells(line) in shown for line in (head, *rows))
    first_cells = {of_line[0] for of_line in shown}
    assert {f"`{name.removesuffix('_mhc')}_*`" for name in timm.list_models("*_mhc")} <= first_cells


@pytest.mark.slow  # builds all models, each four times
def test_the_page_of_models_shows_the_table_of_all_registered_ones():
    assert model_table() in PAGE.read_text(encoding="utf-8")


def test_figures_of_vit_base(only):
    only("vit_base_patch16_224")
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
