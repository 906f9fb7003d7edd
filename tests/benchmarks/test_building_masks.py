"""Writes aerial photos and the outlines of buildings as folds."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhc_vision.data import SegmentationDataModule

PLACE = "package-1.4.0/tests/testing_data/data/detection_data/geo"


def _archive(folder: Path, name: str) -> Path:
    """Six photos with masks of 0 and 255, where the package has them."""
    for number in range(6):
        mask = np.zeros((20, 24), dtype=np.uint8)
        mask[: 3 + number] = 255
        for kind, pixels in (("images", np.repeat(mask[..., None], 3, axis=2)), ("polygon_masks", mask)):
            path = folder / "files" / PLACE / kind / "area" / f"area_{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.add(folder / "files" / "package-1.4.0", "package-1.4.0")
    return folder / name


def test_each_photo_is_in_the_test_of_one_fold(
    run_script: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloaded(words: list[str], check: bool) -> None:
        assert check
        assert "--require-hashes" in words
        folder = Path(words[words.index("--dest") + 1])
        assert "--hash=sha256:" in Path(words[words.index("--requirement") + 1]).read_text()
        _archive(folder, "pytorch_segmentation_models_trainer-1.4.0.tar.gz")

    monkeypatch.setattr("subprocess.run", downloaded)
    run_script("building_masks.py", tmp_path / "buildings")
    tested: list[str] = []
    for fold in range(3):
        root = tmp_path / "buildings" / f"fold{fold}"
        images = {split: {path.name for path in (root / split / "images").iterdir()} for split in ("train", "val")}
        assert images["train"] | images["val"] == {f"area_{number}.png" for number in range(6)}
        assert not images["train"] & images["val"]
        tested += images["val"]
        data = SegmentationDataModule("folder", str(root), img_size=16, num_workers=0)
        assert data.class_names == ["background", "building"]
        image, mask = data.eval_set.values.decode(data.eval_set.masks[0]), data.eval_set[0][1]
        assert image.equal(mask)
        assert mask.unique().tolist() == [0, 1]
    assert len(tested) == 6


def test_a_folder_that_is_there_is_left(run_script: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_script("building_masks.py", tmp_path)
    assert stopped.value.code == 2
    assert list(tmp_path.iterdir()) == []
