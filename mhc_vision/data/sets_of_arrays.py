"""The classification datasets of torchvision that come as arrays of pixels."""

from operator import attrgetter

from mhc_vision.data.class_names import DIGITS, EMOTIONS, TISSUE
from mhc_vision.data.torchvision_labels import fixed, from_pairs, pcam_labels, targets
from mhc_vision.data.torchvision_set import TorchvisionSet, official_splits, train_and_test


def _idx_files(folder: str, train: str, test: str) -> tuple[str, ...]:
    """The four files of MNIST and those made like it."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{folder}/raw/{prefix}-{kind}" for prefix in (train, test) for kind in kinds)


ARRAY_SETS = {
    "cifar10": TorchvisionSet(
        "CIFAR10",
        train_and_test(50_000, 10_000),
        tuple(f"cifar-10-batches-py/{name}" for name in ("data_batch_<1 to 5>", "test_batch", "batches.meta")),
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        labels=targets,
        in_memory=True,
    ),
    "cifar100": TorchvisionSet(
        "CIFAR100",
        train_and_test(50_000, 10_000),
        tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        labels=targets,
        in_memory=True,
    ),
    "emnist": TorchvisionSet(
        "EMNIST",
        train_and_test(112_800, 18_800, split="balanced"),
        _idx_files("EMNIST", "emnist-balanced-train", "emnist-balanced-test"),
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        labels=targets,
        in_memory=True,
    ),
    "fashion_mnist": TorchvisionSet(
        "FashionMNIST",
        train_and_test(60_000, 10_000),
        _idx_files("FashionMNIST", "train", "t10k"),
        "https://github.com/zalandoresearch/fashion-mnist",
        labels=targets,
        in_memory=True,
    ),
    "fer2013": TorchvisionSet(
        "FER2013",
        official_splits(train=28_709, test=7178),
        ("fer2013/fer2013.csv",),
        "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
        note="The file is in fer2013.tar.gz, for those who are logged in.",
        labels=from_pairs("_samples", 1),
        class_names=fixed(EMOTIONS),
        in_memory=True,
        fetch=None,
    ),
    "kmnist": TorchvisionSet(
        "KMNIST",
        train_and_test(60_000, 10_000),
        _idx_files("KMNIST", "train", "t10k"),
        "http://codh.rois.ac.jp/kmnist/",
        labels=targets,
        in_memory=True,
    ),
    "mnist": TorchvisionSet(
        "MNIST",
        train_and_test(60_000, 10_000),
        _idx_files("MNIST", "train", "t10k"),
        "http://yann.lecun.com/exdb/mnist/",
        labels=targets,
        in_memory=True,
    ),
    "pcam": TorchvisionSet(
        "PCAM",
        official_splits(train=262_144, val=32_768, test=32_768),
        tuple(
            f"pcam/camelyonpatch_level_2_split_{split}_{part}.h5"
            for split in ("train", "valid", "test")
            for part in ("x", "y")
        ),
        "https://github.com/basveeling/pcam",
        labels=pcam_labels,
        class_names=fixed(TISSUE),
        packages=("h5py",),
        fetch_packages=("gdown",),
    ),
    "stl10": TorchvisionSet(
        "STL10",
        official_splits(train=5000, test=8000),
        (
            *(f"stl10_binary/{split}_{part}.bin" for split in ("train", "test") for part in ("X", "y")),
            # torchvision asks for it, too
            "stl10_binary/unlabeled_X.bin",
            "stl10_binary/class_names.txt",
        ),
        "https://cs.stanford.edu/~acoates/stl10/",
        labels=attrgetter("labels"),
        in_memory=True,
    ),
    "svhn": TorchvisionSet(
        "SVHN",
        official_splits(train=73_257, test=26_032),
        ("train_32x32.mat", "test_32x32.mat"),
        "http://ufldl.stanford.edu/housenumbers/",
        labels=attrgetter("labels"),
        class_names=fixed(DIGITS),
        packages=("scipy",),
        in_memory=True,
    ),
    "usps": TorchvisionSet(
        "USPS",
        train_and_test(7291, 2007),
        ("usps.bz2", "usps.t.bz2"),
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        labels=targets,
        class_names=fixed(DIGITS),
        in_memory=True,
    ),
}
