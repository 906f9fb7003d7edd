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
    for split, count in splits.items():
        rows: dict[str, list] = {"image": [], label_key: []}
        for index in range(count):
            write_image(folder / "image.jpg", index % 2)
            rows["image"].append({"bytes": (folder / "image.jpg").read_bytes(), "path": f"{index}.jpg"})
            rows[label_key].append(index % 2)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    # the parquet files hold the images
    (folder / "image.jpg").unlink()
