"""Twelve aerial photos with the outlines of buildings, which a package on PyPI brings, as folders of image and mask.

    python benchmarks/building_masks.py BUILDINGS
    mhc-vision compare compare/segmentation --out runs/segmentation    # see its head

The photos, about 571 x 571 pixels each, and the outlines that people drew are test data of
pytorch_segmentation_models_trainer 1.4.0 (GPL), fetched by pip, which checks their SHA-256; nothing of it is kept here.
Each third of the photos is the test of one fold: BUILDINGS/{fold0,fold1,fold2}/{train,val}/{images,masks}/.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mhc_vision.atomic_files import new_directory

ARCHIVE = "pytorch_segmentation_models_trainer-1.4.0.tar.gz"
REQUIREMENT = (
    "pytorch-segmentation-models-trainer==1.4.0 "
    "--hash=sha256:0aaa2f4d97fc38ef345464460fc81ba5c51716cf5285a02eb2d062e76759ee36\n"
)
IMAGES, MASKS = "/detection_data/geo/images/", "/detection_data/geo/polygon_masks/"
FOLDS = 3
CLASSES = ("background", "building")


def fetch(folder: Path) -> Path:
    """The source distribution of the package, in a folder."""
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT, encoding="utf-8")
    # nothing of it is installed or run: whether it fits this Python does not matter
    options = ("--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes", "--quiet")
    words = [*options, "--requirement", str(requirements), "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *words], check=True)
    return folder / ARCHIVE


def write(source: Path, directory: Path) -> None:
    """The photos in folds, by their names."""
    with tarfile.open(source) as archive:
        paths = sorted(name for name in archive.getnames() if IMAGES in name and name.endswith(".tif"))
        for place, path in enumerate(paths):
            image, mask = (Image.open(archive.extractfile(name)) for name in (path, path.replace(IMAGES, MASKS)))
            labels = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8))
            for fold in range(FOLDS):
                split = directory / f"fold{fold}" / ("val" if place % FOLDS == fold else "train")
                for kind, picture in (("images", image), ("masks", labels)):
                    (split / kind).mkdir(parents=True, exist_ok=True)
                    picture.save(split / kind / f"{Path(path).stem}.png")
    for fold in range(FOLDS):
        (directory / f"fold{fold}" / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="BUILDINGS", help="a new folder")
    directory = parser.parse_args().directory
    if directory.exists():
        parser.error(f"{directory} is there already, expected a new folder")
    with tempfile.TemporaryDirectory() as folder, new_directory(directory) as temporary:
        write(fetch(Path(folder)), temporary)
    print(f"{directory}: {FOLDS} folds of the same photos")


if __name__ == "__main__":
    main()
