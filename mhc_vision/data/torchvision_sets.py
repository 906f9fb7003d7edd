"""The classification datasets of torchvision, each with its official protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from mhc_vision.data.class_names import DIGITS, EMOTIONS, TISSUE, TRAFFIC_SIGNS
from mhc_vision.data.torchvision_labels import files, fixed, from_pairs, pcam_labels, sun397_partition, targets

Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True)
class Split:
    """One official split: the arguments that torchvision's class takes for it, and how many images it has."""

    arguments: Mapping[str, Any]
    num_images: int


@dataclass(frozen=True)
class TorchvisionSet:
    """What torchvision does not say itself of one of its datasets.

    Attributes:
        class_name: In `torchvision.datasets`.
        splits: The official `train`, perhaps `val`, and `test`; only `all` where a dataset comes undivided.
        files: What lies where below the root, for those who place it by hand.
        source: Page that the files come from.
        metric: By which its papers compare: `top1`, or `mean_per_class`, the mean of the classes' accuracies.
        labels: The label of each image of torchvision's object.
        class_names: Their names.
        paths: The file of each image, where torchvision lists files without a look whether they are there.
        train_per_class: Training images of each class, where the dataset's paper draws them at random.
        partition: Indices of `train` and `test` in a dataset that comes undivided, where they are published.
        in_memory: Whether all decoded images are small enough to be kept, at their own size.
        download: Whether torchvision can fetch it.
    """

    class_name: str
    splits: Mapping[str, Split]
    files: str
    source: str
    metric: Metric = "top1"
    labels: Callable[[Any], Sequence[int]] = attrgetter("_labels")
    class_names: Callable[[Any], Sequence[Any]] = attrgetter("classes")
    paths: Callable[[Any], Sequence[Any]] | None = None
    train_per_class: int | None = None
    partition: Callable[[Any, str], list[int]] | None = None
    in_memory: bool = False
    download: bool = True


def _splits(key: str = "split", names: Mapping[str, Any] | None = None, **num_images: int) -> dict[str, Split]:
    """Splits that differ in one argument, by default their own name."""
    return {name: Split({key: (names or {}).get(name, name)}, count) for name, count in num_images.items()}


def _train_and_test(train: int, test: int, **arguments: Any) -> dict[str, Split]:
    return {"train": Split({"train": True, **arguments}, train), "test": Split({"train": False, **arguments}, test)}


SETS = {
    "caltech101": TorchvisionSet(
        "Caltech101",
        {"all": Split({}, 8677)},
        "caltech101/101_ObjectCategories/<class>/image_0001.jpg",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        metric="mean_per_class",
        labels=attrgetter("y"),
        class_names=attrgetter("categories"),
        train_per_class=30,
    ),
    "caltech256": TorchvisionSet(
        "Caltech256",
        {"all": Split({}, 30607)},
        "caltech256/256_ObjectCategories/<class>/001_0001.jpg",
        "https://data.caltech.edu/records/nyy15-4j048",
        metric="mean_per_class",
        labels=attrgetter("y"),
        class_names=attrgetter("categories"),
        train_per_class=60,
    ),
    "cifar10": TorchvisionSet(
        "CIFAR10",
        _train_and_test(50_000, 10_000),
        "cifar-10-batches-py/data_batch_1",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        labels=targets,
        in_memory=True,
    ),
    "cifar100": TorchvisionSet(
        "CIFAR100",
        _train_and_test(50_000, 10_000),
        "cifar-100-python/train",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        labels=targets,
        in_memory=True,
    ),
    "country211": TorchvisionSet(
        "Country211",
        _splits(names={"val": "valid"}, train=31_650, val=10_550, test=21_100),
        "country211/train/<class>/*.jpg",
        "https://github.com/openai/CLIP/blob/main/data/country211.md",
        labels=targets,
    ),
    "dtd": TorchvisionSet(
        "DTD",
        _splits(train=1880, val=1880, test=1880),
        "dtd/dtd/images/<class>/*.jpg and dtd/dtd/labels/train1.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        paths=files,
    ),
    "emnist": TorchvisionSet(
        "EMNIST",
        _train_and_test(112_800, 18_800, split="balanced"),
        "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        labels=targets,
        in_memory=True,
    ),
    "eurosat": TorchvisionSet(
        "EuroSAT",
        {"all": Split({}, 27_000)},
        "eurosat/2750/<class>/*.jpg",
        "https://github.com/phelber/EuroSAT",
        labels=targets,
        in_memory=True,
    ),
    "fashion_mnist": TorchvisionSet(
        "FashionMNIST",
        _train_and_test(60_000, 10_000),
        "FashionMNIST/raw/train-images-idx3-ubyte",
        "https://github.com/zalandoresearch/fashion-mnist",
        labels=targets,
        in_memory=True,
    ),
    "fer2013": TorchvisionSet(
        "FER2013",
        _splits(train=28_709, test=7178),
        "fer2013/fer2013.csv",
        "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
        labels=from_pairs("_samples", 1),
        class_names=fixed(EMOTIONS),
        in_memory=True,
        download=False,
    ),
    "fgvc_aircraft": TorchvisionSet(
        "FGVCAircraft",
        _splits(train=3334, val=3333, test=3333),
        "fgvc-aircraft-2013b/data/images/*.jpg and fgvc-aircraft-2013b/data/images_variant_train.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        metric="mean_per_class",
        paths=files,
    ),
    "flowers102": TorchvisionSet(
        "Flowers102",
        _splits(train=1020, val=1020, test=6149),
        "flowers-102/jpg/image_00001.jpg, flowers-102/imagelabels.mat and flowers-102/setid.mat",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        metric="mean_per_class",
        paths=files,
    ),
    "food101": TorchvisionSet(
        "Food101",
        _splits(train=75_750, test=25_250),
        "food-101/images/<class>/*.jpg and food-101/meta/train.json",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        paths=files,
    ),
    "gtsrb": TorchvisionSet(
        "GTSRB",
        _splits(train=26_640, test=12_630),
        "gtsrb/GTSRB/Training/<class>/*.ppm, gtsrb/GTSRB/Final_Test/Images/*.ppm and gtsrb/GT-final_test.csv",
        "https://benchmark.ini.rub.de/gtsrb_news.html",
        labels=from_pairs("_samples", 1),
        class_names=fixed(TRAFFIC_SIGNS),
        paths=from_pairs("_samples", 0),
        in_memory=True,
    ),
    "imagenet": TorchvisionSet(
        "ImageNet",
        _splits(names={"test": "val"}, train=1_281_167, test=50_000),
        "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        "https://image-net.org/download.php",
        labels=targets,
        download=False,
    ),
    "imagenette": TorchvisionSet(
        "Imagenette",
        _splits(names={"test": "val"}, train=9469, test=3925),
        "imagenette2/train/<class>/*.JPEG",
        "https://github.com/fastai/imagenette",
        labels=from_pairs("_samples", 1),
    ),
    "inaturalist": TorchvisionSet(
        "INaturalist",
        _splits("version", {"train": "2021_train", "test": "2021_valid"}, train=2_686_843, test=100_000),
        "2021_train/<class>/*.jpg and 2021_valid/<class>/*.jpg",
        "https://github.com/visipedia/inat_comp/tree/master/2021",
        labels=from_pairs("index", 0),
        class_names=attrgetter("all_categories"),
    ),
    "kmnist": TorchvisionSet(
        "KMNIST",
        _train_and_test(60_000, 10_000),
        "KMNIST/raw/train-images-idx3-ubyte",
        "http://codh.rois.ac.jp/kmnist/",
        labels=targets,
        in_memory=True,
    ),
    "mnist": TorchvisionSet(
        "MNIST",
        _train_and_test(60_000, 10_000),
        "MNIST/raw/train-images-idx3-ubyte",
        "https://yann.lecun.org/exdb/mnist/",
        labels=targets,
        in_memory=True,
    ),
    "oxford_iiit_pet": TorchvisionSet(
        "OxfordIIITPet",
        _splits(names={"train": "trainval"}, train=3680, test=3669),
        "oxford-iiit-pet/images/*.jpg and oxford-iiit-pet/annotations/trainval.txt",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        metric="mean_per_class",
        paths=attrgetter("_images"),
    ),
    "pcam": TorchvisionSet(
        "PCAM",
        _splits(train=262_144, val=32_768, test=32_768),
        "pcam/camelyonpatch_level_2_split_train_x.h5 and pcam/camelyonpatch_level_2_split_train_y.h5",
        "https://github.com/basveeling/pcam",
        labels=pcam_labels,
        class_names=fixed(TISSUE),
    ),
    "places365": TorchvisionSet(
        "Places365",
        {
            "train": Split({"split": "train-standard", "small": True}, 1_803_460),
            "test": Split({"split": "val", "small": True}, 36_500),
        },
        "data_256_standard/<letter>/<class>/*.jpg, val_256/*.jpg and places365_train_standard.txt",
        "http://places2.csail.mit.edu/download.html",
        labels=targets,
        paths=from_pairs("imgs", 0),
    ),
    "rendered_sst2": TorchvisionSet(
        "RenderedSST2",
        _splits(train=6920, val=872, test=1821),
        "rendered-sst2/train/negative/*.png",
        "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        labels=from_pairs("_samples", 1),
    ),
    "stanford_cars": TorchvisionSet(
        "StanfordCars",
        _splits(train=8144, test=8041),
        "stanford_cars/cars_train/*.jpg, stanford_cars/cars_test/*.jpg, stanford_cars/devkit/cars_train_annos.mat and "
        "stanford_cars/cars_test_annos_withlabels.mat",
        "https://github.com/pytorch/vision/issues/7545",
        labels=from_pairs("_samples", 1),
        paths=from_pairs("_samples", 0),
        download=False,
    ),
    "stl10": TorchvisionSet(
        "STL10",
        _splits(train=5000, test=8000),
        "stl10_binary/train_X.bin",
        "https://cs.stanford.edu/~acoates/stl10/",
        labels=attrgetter("labels"),
        in_memory=True,
    ),
    "sun397": TorchvisionSet(
        "SUN397",
        {"all": Split({}, 108_754)},
        "SUN397/ClassName.txt, SUN397/<letter>/<class>/sun_*.jpg, SUN397/Training_01.txt and SUN397/Testing_01.txt",
        "https://vision.princeton.edu/projects/2010/SUN/",
        partition=sun397_partition,
    ),
    "svhn": TorchvisionSet(
        "SVHN",
        _splits(train=73_257, test=26_032),
        "train_32x32.mat and test_32x32.mat",
        "http://ufldl.stanford.edu/housenumbers/",
        labels=attrgetter("labels"),
        class_names=fixed(DIGITS),
        in_memory=True,
    ),
    "usps": TorchvisionSet(
        "USPS",
        _train_and_test(7291, 2007),
        "usps.bz2 and usps.t.bz2",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        labels=targets,
        class_names=fixed(DIGITS),
        in_memory=True,
    ),
}
