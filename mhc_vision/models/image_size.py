"""Sizes of images that a model's patches do not fill."""

from torch import nn

from mhc_vision.checks import check_whole_number


def check_image_size(model: nn.Module, name: str, *sides: int) -> None:
    """Raise ValueError unless patches fill an image: timm would leave the pixels beyond the last whole one out, unsaid.

    The size that published weights were made for is taken as it is: so400m at 384 pixels has patches of 14.

    Args:
        model: Any of timm's; those without patches take every size.
        name: What the error calls it.
        sides: Of the images, in pixels.
    """
    patch_embed = getattr(model, "patch_embed", None)
    patch_size = getattr(patch_embed, "patch_size", 1)
    patch_sides = (patch_size,) if isinstance(patch_size, int) else tuple(patch_size)
    projection = getattr(patch_embed, "proj", None)
    # patches that overlap, as PVT v2's, are padded at the border
    overlap = isinstance(projection, nn.Conv2d) and projection.stride != projection.kernel_size
    own = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", ())
    for side in sides:
        check_whole_number("img_size", side, at_least=1)
        if getattr(patch_embed, "dynamic_img_pad", False) or overlap or side in own[1:]:
            continue
        for patch in patch_sides:
            if side % patch:
                raise ValueError(f"img_size: got {side} for {name}, expected a multiple of its patches' {patch} pixels")
