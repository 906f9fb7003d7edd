"""Which sizes of images the patches of timm's models fill."""

import pytest
import timm
import torch

from mhc_vision.models.image_size import check_image_size


def test_pixels_beyond_the_last_whole_patch_are_refused_but_not_for_patches_that_overlap() -> None:
    with torch.device("meta"):
        vit, pvt = (timm.create_model(name, pretrained=False) for name in ("test_vit", "pvt_v2_b0"))
    check_image_size(vit, "test_vit", 192)
    with pytest.raises(
        ValueError, match="img_size: got 200 for test_vit, expected a multiple of its patches' 16 pixels"
    ):
        check_image_size(vit, "test_vit", 200)
    # 7 pixels wide, 4 apart and padded: all pixels of 256 are in one
    check_image_size(pvt, "pvt_v2_b0", 256)
