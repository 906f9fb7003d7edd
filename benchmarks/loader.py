"""Training images per second that a loader gives: ours, timm's and torchvision's on Pillow, in one run.

    python benchmarks/loader.py                                   # photographs made of noise, one worker
    python benchmarks/loader.py --root /data/imagenet --num-workers 8 --images 20000
    python benchmarks/loader.py --num-workers 0                   # one core for everything

Everybody reads the same files and does the same: random resized crop to 224 pixels, flip, batch. Torchvision normalises
in the worker and timm in the main process, as is their default; ours leaves it to the device of the model, so a line of
its own shows what it costs on the CPU. The contestants alternate from round to round, so that the machine's noise hits
all; medians and ratios are printed. Each worker is one core; with 0 workers one thread does it all.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from synthetic_photos import write_photos
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.data import ImageFolderDataModule
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.report.markdown import markdown_table

IMG_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINE = "torchvision, Pillow"
Loader = Callable[[], Iterable[Any]]


def ours(data: AugmentedDataModule, count: int, normalised: bool) -> Loader:
    """The first `count` images of our loader; `normalised` on the CPU, batch by batch, in the main process."""
    data.train_set = Subset(data.train_set, range(count))
    loader = data.train_dataloader()
    if not normalised:
        return lambda: loader
    return lambda: (data.batch_augment.train()(*batch) for batch in loader)


def torchvision_loader(root: Path, count: int, args: argparse.Namespace) -> Loader:
    """ImageFolder and transforms on Pillow images, as in torchvision's reference training."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(IMG_SIZE, interpolation=transforms.InterpolationMode(args.interpolation)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(
        Subset(ImageFolder(str(root / "train"), transform), range(count)),
        args.batch_size,
        shuffle=True,
        num_workers=args.num_workers,
        drop_last=True,
        persistent_workers=args.num_workers > 0,
    )
    return lambda: loader


def timm_loader(root: Path, count: int, args: argparse.Namespace) -> Loader:
    """timm's loader as it is by default, without its colour jitter."""
    dataset = create_dataset("", str(root / "train"), search_split=False)
    dataset.reader.samples = dataset.reader.samples[:count]
    loader = create_loader(
        dataset,
        (3, IMG_SIZE, IMG_SIZE),
        args.batch_size,
        is_training=True,
        color_jitter=None,
        interpolation=args.interpolation,
        mean=MEAN,
        std=STD,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    return lambda: loader


def contestants(root: Path, count: int, args: argparse.Namespace) -> dict[str, Loader]:
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "img_size": IMG_SIZE,
        "interpolation": args.interpolation,
        "mean": MEAN,
        "std": STD,
    }
    return {
        BASELINE: torchvision_loader(root, count, args),
        "timm, Pillow": timm_loader(root, count, args),
        "ours": ours(ImageFolderDataModule(str(root), **options), count, normalised=False),
        "ours, normalised on the CPU": ours(ImageFolderDataModule(str(root), **options), count, normalised=True),
    }


def images_per_second(loader: Loader) -> float:
    """Images of one pass over its wall time."""
    start = time.perf_counter()
    count = sum(len(batch[0]) for batch in loader())
    return count / (time.perf_counter() - start)


def measure(loaders: dict[str, Loader], rounds: int, workers: int) -> list[dict[str, Any]]:
    """Median images/s per worker of each, and the median of its ratios to the baseline of the same round."""
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    # the first pass starts the workers and fills the page cache
    for _ in range(rounds + 1):
        for name, loader in loaders.items():
            rates[name].append(images_per_second(loader) / max(1, workers))
    rows = []
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values[1:], rates[BASELINE][1:], strict=True)]
        rows.append(
            {
                "loader": name,
                "images/s per worker": round(statistics.median(values[1:]), 1),
                f"ratio to {BASELINE}": round(statistics.median(ratios), 2),
            }
        )
    return rows


def made_photos(folder: Path, count: int) -> None:
    """An image folder of two classes with `count` images to train on."""
    for split, images in (("train", count - count // 2), ("train", count // 2), ("val", 1), ("val", 1)):
        name = "b" if (folder / split / "a").exists() else "a"
        (folder / split / name).mkdir(parents=True)
        size = write_photos(folder / split / name, images, seed=len(list(folder.rglob("*.jpg"))))
        if split == "train":
            print(f"{images} images made, {size / 1000:.0f} kB on average", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="an image folder with train/ and val/ of your own")
    parser.add_argument("--num-workers", type=int, default=1, help="of each loader")
    parser.add_argument("--images", type=int, default=512, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--interpolation", default="bicubic", choices=["bilinear", "bicubic"], help="for all")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    if min(args.images, args.rounds, args.batch_size) < 1 or args.images < max(2, args.batch_size):
        parser.error(
            f"--images: got {args.images}, expected at least --batch-size={args.batch_size}, and all numbers from 1"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary) / "images"
        if args.root is None:
            made_photos(root, args.images)
        rows = measure(contestants(root, args.images, args), args.rounds, args.num_workers)
    print(f"\n{args.num_workers} workers, {args.interpolation}, {args.images} images per round, {args.rounds} rounds\n")
    print(markdown_table(rows), end="")
    if args.json:
        versions = {module.__name__: module.__version__ for module in (torch, torchvision, timm)}
        setting = {
            name: getattr(args, name) for name in ("num_workers", "images", "rounds", "batch_size", "interpolation")
        }
        record = {"machine": platform.processor() or platform.machine(), **versions, **setting, "rows": rows}
        replace_text(args.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
