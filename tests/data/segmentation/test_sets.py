from pathlib import Path
from typing import Any

import pytest
import torch
from masked_copies import COPIES, SIZE

from mhc_vision.data import SegmentationDataModule
from mhc_vision.data.segmentation.sets import NAMES, open_pairs
from mhc_vision.segmentation_scores import IGNORED

# number of classes; labels of the upper and the lower half, and of the row between or above them
EXPECTED = {
    "ade20k": (150, {0, 149, IGNORED}),
    "cityscapes": (19, {0, 18, IGNORED}),
    "folder": (2, {0, 1, IGNORED}),
    "oxford_iiit_pet": (3, {0, 1, 2}),
    "sbd": (21, {0, 20}),
    "voc": (21, {0, 20, IGNORED}),
}


def made(name: str, root: Path, **options: Any) -> SegmentationDataModule:
    root.mkdir(exist_ok=True)
    COPIES[name](root)
    return SegmentationDataModule(name, str(root), download=False, num_workers=0, img_size=32, **options)


def test_every_set_has_a_copy() -> None:
    assert sorted(NAMES) == sorted(COPIES)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_the_layout_of_each_dataset(name: str, tmp_path: Path) -> None:
    data = made(name, tmp_path / "data")
    num_classes, labels = EXPECTED[name]
    assert data.num_classes == num_classes
    assert len(set(data.class_names)) == num_classes
    image, mask = data.eval_set[0]
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, 32, 32 * SIZE[1] // SIZE[0])
    # masks are scored as they are
    assert tuple(mask.shape) == SIZE
    assert set(mask.unique().tolist()) == labels
    image, mask = data.train_set[0]
    assert (type(image), type(mask)) == (torch.Tensor, torch.Tensor)
    assert (image.shape, mask.shape) == ((3, 32, 32), (32, 32))
    assert mask.dtype == torch.int64


def test_training_and_validation_have_no_image_in_common(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        COPIES[name](tmp_path / name)
        _, splits = open_pairs(name, tmp_path / name, download=False)
        assert not set(splits["train"][0]) & set(splits["val"][0])


def test_image_and_mask_move_together(tmp_path: Path) -> None:
    data = made("folder", tmp_path / "data", color_jitter=0.0)
    for seed in range(8):
        torch.manual_seed(seed)
        image, mask = data.train_set[0]
        sky = mask == 1
        # bright where the mask says sky; resizing blurs one row of pixels on either side of a border
        inner = torch.nn.functional.max_pool2d((~sky)[None, None].float(), 5, 1, 2)[0, 0] == 0
        assert (image[0][inner] > 170).all()


def test_what_a_crop_lacks_has_no_class(tmp_path: Path) -> None:
    data = made("folder", tmp_path / "data", min_scale=0.25, max_scale=0.25)
    _, mask = data.train_set[0]
    assert (mask == IGNORED).float().mean() > 0.5


def test_a_seed_gives_the_same_crop_and_another_one_another(tmp_path: Path) -> None:
    data = made("folder", tmp_path / "data", color_jitter=0.4)
    samples = data._seeded_train_set()
    same, again, other = (samples[0, place] for place in ((0, 0, 1), (0, 0, 1), (0, 0, 2)))  # type: ignore[index]
    assert torch.equal(same[0], again[0])
    assert torch.equal(same[1], again[1])
    assert not torch.equal(same[0], other[0])


def test_the_number_of_workers_changes_no_crop(tmp_path: Path) -> None:
    COPIES["folder"](tmp_path)
    alone, together = (
        SegmentationDataModule(
            "folder", str(tmp_path), img_size=32, color_jitter=0.4, batch_size=2, num_workers=workers
        )
        for workers in (0, 2)
    )
    for one, other in zip(alone.train_dataloader(), together.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_evaluation_takes_images_one_by_one_and_training_batches(tmp_path: Path) -> None:
    data = made("folder", tmp_path / "data", batch_size=4)
    assert len(data.val_dataloader()) == 4
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 32, 32)


def test_a_test_folder_is_the_test(tmp_path: Path) -> None:
    data = made("folder", tmp_path / "data")
    assert not data.has_test_set
    COPIES["folder"](tmp_path / "other", ("train", "val", "test"), 3)  # type: ignore[call-arg]
    assert SegmentationDataModule("folder", str(tmp_path / "other"), img_size=32).has_test_set


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "camvid"}, "dataset: got 'camvid'"),
        ({"root": "nowhere"}, "root: nowhere is missing"),
        ({"img_size": 0}, "img_size: got 0"),
        ({"resize_to": 16}, "resize_to: got 16"),
        ({"min_scale": 2.0, "max_scale": 1.0}, "min_scale: got 2.0"),
        ({"max_train_images": 0}, "max_train_images: got 0"),
        ({"classes": ["one"]}, "classes: got 1"),
        ({"classes": ["one", "one"]}, "classes: got one"),
        ({"dataset": "voc", "classes": ["a", "b"]}, "classes: got some for voc"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    COPIES["folder"](tmp_path)
    arguments = {"dataset": "folder", "root": str(tmp_path), "img_size": 32, **options}
    with pytest.raises(ValueError, match=message):
        SegmentationDataModule(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "folder"])
def test_a_partial_copy_names_what_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        open_pairs(name, tmp_path, download=False)
    COPIES[name](tmp_path)
    _, masks = open_pairs(name, tmp_path, download=False)[1]["train"]
    lost = Path(masks[0])
    lost.unlink()
    with pytest.raises(ValueError, match=lost.stem):
        open_pairs(name, tmp_path, download=False)


def test_an_image_without_mask_is_named(tmp_path: Path) -> None:
    COPIES["folder"](tmp_path)
    (tmp_path / "train" / "masks" / "2.png").unlink()
    with pytest.raises(ValueError, match="got 2 without image or mask"):
        open_pairs("folder", tmp_path)
    COPIES["folder"](tmp_path)
    # left out, two images would share a mask
    (tmp_path / "val" / "images" / "2.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"names of .*2\..*, expected one of each name"):
        open_pairs("folder", tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"classes.txt is missing"):
        open_pairs("folder", tmp_path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"ground\r\nsky\r\n", ("ground", "sky")),
        (b"\xef\xbb\xbfground\nsky\n\n", ("ground", "sky")),
        ("Straße/Weg\nsky".encode(), ("Straße/Weg", "sky")),
        (b"ground\n\nsky", "classes: got no name for class 1"),
        (b"ground\nground", "classes: got ground more than once"),
        (b"gr\xfcn\nsky", "classes.txt holds other bytes than UTF-8"),
        (b"", "classes: got 0, expected 2 to 255"),
    ],
)
def test_classes_are_the_lines_of_a_text(content: bytes, names: tuple[str, ...] | str, tmp_path: Path) -> None:
    COPIES["folder"](tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    if isinstance(names, tuple):
        assert open_pairs("folder", tmp_path)[0].class_names == names
        return
    with pytest.raises(ValueError, match=names):
        open_pairs("folder", tmp_path)


def test_a_short_list_of_classes_is_refused(tmp_path: Path) -> None:
    COPIES["ade20k"](tmp_path)
    path = tmp_path / "ADEChallengeData2016" / "objectInfo150.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"got 149 classes in objectInfo150\.txt, expected 150"):
        open_pairs("ade20k", tmp_path)
