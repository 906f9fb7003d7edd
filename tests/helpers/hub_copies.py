"""Small datasets in the form that those of the Hugging Face hub have, for tests."""

from pathlib import Path

from torchvision_copies import write_image


def write_hub_dataset(folder: Path, label_key: str, splits: dict[str, int]) -> None:
    """Write so many images of two classes, pie and soup, for each split, as one parquet file a split.

    Needs the package datasets, which reads `hfds/<folder>`.
    """
    import datasets

    features = datasets.Features({"image": datasets.Image(), label_key: datasets.ClassLabel(names=["pie", "soup"])})
    folder.mkdir(parents=True)
    write_image(folder / "image.jpg", 0)
    for split, count in splits.items():
        rows = {"image": [str(folder / "image.jpg")] * count, label_key: [index % 2 for index in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    # the parquet files hold the pixels
    (folder / "image.jpg").unlink()
