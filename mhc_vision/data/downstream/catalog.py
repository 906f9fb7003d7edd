"""The classification datasets of torchvision by name, one entry each."""

from operator import attrgetter

from mhc_vision.checks import nearest
from mhc_vision.data.class_names import DIGITS, EMOTIONS, TISSUE, TRAFFIC_SIGNS
from mhc_vision.data.downstream.labels import (
    by_index,
    caltech_files,
    files,
    fixed,
    from_pairs,
    inaturalist_files,
    pcam_labels,
    sun397_partition,
    targets,
    track,
)
from mhc_vision.data.downstream.spec import Split, TorchvisionSet, official_splits, train_and_test

FILE_SETS = {
    "caltech101": TorchvisionSet(
        "Caltech101",
        {"all": Split({}, 8677)},
        (
            "caltech101/101_ObjectCategories/<class>/image_<number>.jpg",
            # torchvision takes it out of the list of classes and fails where it is not in it
            "caltech101/101_ObjectCategories/BACKGROUND_Google",
        ),
        "https://data.caltech.edu/records/mzrjq-6wc02",
        metric="mean_per_class",
        labels=attrgetter("y"),
        class_names=attrgetter("categories"),
        paths=caltech_files("101_ObjectCategories", "image_{number:04d}.jpg"),
        listed=True,
        train_per_class=30,
    ),
    "caltech256": TorchvisionSet(
        "Caltech256",
        {"all": Split({}, 30_607)},
        ("caltech256/256_ObjectCategories/<class>/<class number>_<number>.jpg",),
        "https://data.caltech.edu/records/nyy15-4j048",
        metric="mean_per_class",
        labels=attrgetter("y"),
        class_names=attrgetter("categories"),
        paths=caltech_files("256_ObjectCategories", "{label:03d}_{number:04d}.jpg"),
        listed=True,
        train_per_class=60,
    ),
    "country211": TorchvisionSet(
        "Country211",
        official_splits(names={"val": "valid"}, train=31_650, val=10_550, test=21_100),
        tuple(f"country211/{split}/<class>/*.jpg" for split in ("train", "valid", "test")),
        "https://github.com/openai/CLIP/blob/main/data/country211.md",
        labels=targets,
        paths=from_pairs("samples", 0),
    ),
    "dtd": TorchvisionSet(
        "DTD",
        official_splits(train=1880, val=1880, test=1880),
        ("dtd/dtd/images/<class>/*.jpg", *(f"dtd/dtd/labels/{split}1.txt" for split in ("train", "val", "test"))),
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        paths=files,
        listed=True,
    ),
    "eurosat": TorchvisionSet(
        "EuroSAT",
        {"all": Split({}, 27_000)},
        ("eurosat/2750/<class>/<class>_<number>.jpg",),
        "https://github.com/phelber/EuroSAT",
        labels=targets,
        paths=from_pairs("samples", 0),
        in_memory=True,
    ),
    "fgvc_aircraft": TorchvisionSet(
        "FGVCAircraft",
        official_splits(train=3334, val=3333, test=3333),
        (
            "fgvc-aircraft-2013b/data/images/<number>.jpg",
            "fgvc-aircraft-2013b/data/variants.txt",
            *(f"fgvc-aircraft-2013b/data/images_variant_{split}.txt" for split in ("train", "val", "test")),
        ),
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        metric="mean_per_class",
        paths=files,
        listed=True,
    ),
    "flowers102": TorchvisionSet(
        "Flowers102",
        official_splits(train=1020, val=1020, test=6149),
        ("flowers-102/jpg/image_<number>.jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        metric="mean_per_class",
        paths=files,
        listed=True,
        packages=("scipy",),
    ),
    "food101": TorchvisionSet(
        "Food101",
        official_splits(train=75_750, test=25_250),
        ("food-101/images/<class>/<number>.jpg", "food-101/meta/train.json", "food-101/meta/test.json"),
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        paths=files,
        listed=True,
    ),
    "gtsrb": TorchvisionSet(
        "GTSRB",
        # the part that torchvision has; the final training set of the benchmark has 39,209 and works as well
        official_splits(train=26_640, test=12_630),
        (
            "gtsrb/GTSRB/Training/<class number>/*.ppm",
            "gtsrb/GTSRB/Final_Test/Images/<number>.ppm",
            "gtsrb/GT-final_test.csv",
        ),
        "https://benchmark.ini.rub.de/gtsrb_news.html",
        labels=from_pairs("_samples", 1),
        class_names=fixed(TRAFFIC_SIGNS),
        paths=from_pairs("_samples", 0),
        listed=True,
        group=track,
        in_memory=True,
    ),
    "imagenet": TorchvisionSet(
        "ImageNet",
        official_splits(names={"test": "val"}, train=1_281_167, test=50_000),
        ("train/<WordNet id>/*.JPEG", "val/<WordNet id>/*.JPEG", "meta.bin"),
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        note="They are unpacked from ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz "
        "if these lie in the root. Class folders alone, without meta.bin, are for ImageFolderDataModule.",
        labels=targets,
        paths=from_pairs("samples", 0),
        fetch_packages=("scipy",),
        fetch="unpack",
    ),
    "imagenette": TorchvisionSet(
        "Imagenette",
        official_splits(names={"test": "val"}, train=9469, test=3925),
        ("imagenette2/train/<WordNet id>/*.JPEG", "imagenette2/val/<WordNet id>/*.JPEG"),
        "https://github.com/fastai/imagenette",
        labels=from_pairs("_samples", 1),
        paths=from_pairs("_samples", 0),
    ),
    "inaturalist": TorchvisionSet(
        "INaturalist",
        official_splits("version", {"train": "2021_train", "test": "2021_valid"}, train=2_686_843, test=100_000),
        ("2021_train/<class>/*.jpg", "2021_valid/<class>/*.jpg"),
        "https://github.com/visipedia/inat_comp/tree/master/2021",
        labels=from_pairs("index", 0),
        class_names=attrgetter("all_categories"),
        paths=inaturalist_files,
    ),
    "oxford_iiit_pet": TorchvisionSet(
        "OxfordIIITPet",
        official_splits(names={"train": "trainval"}, train=3680, test=3669),
        (
            "oxford-iiit-pet/images/<breed>_<number>.jpg",
            "oxford-iiit-pet/annotations/trainval.txt",
            "oxford-iiit-pet/annotations/test.txt",
        ),
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        metric="mean_per_class",
        paths=attrgetter("_images"),
        listed=True,
    ),
    "places365": TorchvisionSet(
        "Places365",
        {
            "train": Split({"split": "train-standard", "small": True}, 1_803_460),
            "test": Split({"split": "val", "small": True}, 36_500),
        },
        (
            "data_256_standard/<letter>/<class>/<number>.jpg",
            "val_256/Places365_val_<number>.jpg",
            "categories_places365.txt",
            "places365_train_standard.txt",
            "places365_val.txt",
        ),
        "http://places2.csail.mit.edu/download.html",
        labels=targets,
        class_names=by_index,
        paths=from_pairs("imgs", 0),
        listed=True,
    ),
    "rendered_sst2": TorchvisionSet(
        "RenderedSST2",
        official_splits(train=6920, val=872, test=1821),
        tuple(
            f"rendered-sst2/{split}/{name}/*.png"
            for split in ("train", "valid", "test")
            for name in ("negative", "positive")
        ),
        "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        labels=from_pairs("_samples", 1),
        paths=from_pairs("_samples", 0),
    ),
    "stanford_cars": TorchvisionSet(
        "StanfordCars",
        official_splits(train=8144, test=8041),
        (
            "stanford_cars/cars_train/<number>.jpg",
            "stanford_cars/cars_test/<number>.jpg",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
        ),
        "https://github.com/pytorch/vision/issues/7545",
        note="The page that published it is gone; that one says where copies are.",
        labels=from_pairs("_samples", 1),
        paths=from_pairs("_samples", 0),
        listed=True,
        packages=("scipy",),
        fetch=None,
    ),
    "sun397": TorchvisionSet(
        "SUN397",
        {"all": Split({}, 108_754)},
        (
            "SUN397/<letter>/<class>/sun_*.jpg",
            "SUN397/ClassName.txt",
            "SUN397/Training_01.txt",
            "SUN397/Testing_01.txt",
        ),
        "https://vision.princeton.edu/projects/2010/SUN/",
        note="Training_01.txt and Testing_01.txt are in Partitions.zip of that page: torchvision does not fetch it.",
        paths=files,
        partition=sun397_partition,
        unfetched=("SUN397/Training_01.txt", "SUN397/Testing_01.txt"),
    ),
}


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


SETS: dict[str, TorchvisionSet] = dict(sorted({**ARRAY_SETS, **FILE_SETS}.items()))


def find_set(name: str) -> TorchvisionSet:
    """What is known of a dataset.

    Raises:
        ValueError: If there is none of this name; the message has the nearest ones.
    """
    if name not in SETS:
        hint = nearest(name.lower(), SETS)
        expected = f"a known one{hint}" if hint else f"one of {', '.join(SETS)}"
        raise ValueError(f"dataset: got {name!r}, expected {expected}")
    return SETS[name]
