"""What to call the classes of a model."""

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset

from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.models.names import split_name


def names_of_classes(loaded: LoadedModel) -> list[str] | None:
    """The name of each class: the model's own, or for timm's own weights of an ImageNet timm's descriptions of them.

    Where the model names only some classes, the others go by their index.

    Returns:
        As many as the model has classes; `None` if nothing names them.
    """
    if loaded.class_index:
        labels = [str(index) for index in range(loaded.num_classes)]
        for name, index in loaded.class_index.items():
            labels[index] = name
        return labels
    # a directory or a checkpoint without names may have as many classes by chance
    if not timm.is_model(split_name(loaded.source).registered):
        return None
    subset = infer_imagenet_subset({"num_classes": loaded.num_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(loaded.num_classes)]
