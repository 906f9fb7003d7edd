"""Detection: torchvision's Faster R-CNN on a simple feature pyramid (ViTDet, arXiv 2203.16527) over a ViT.

It trains on shapes drawn on the fly; in place of `draw`, any images (3, H, W) in 0..1 with boxes and labels do.
"""

import argparse
from collections import OrderedDict

import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import mhc_vision  # noqa: F401 (adds the models to timm's registry)

CLASSES = ("background", "square", "disc", "diamond")


class SimpleFeaturePyramid(nn.Module):
    """Maps at 1/4, 1/2, 1 and 2 times the stride of the ViT, all made of its last map, (B, C, H, W)."""

    def __init__(self, vit: nn.Module, out_channels: int = 256) -> None:
        super().__init__()
        self.vit, self.out_channels = vit, out_channels
        (dim,) = vit.feature_info.channels()

        def level(channels: int, *scale: nn.Module) -> nn.Module:
            lateral = nn.Conv2d(channels, out_channels, 1, bias=False), LayerNorm2d(out_channels)
            output = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels)
            return nn.Sequential(*scale, *lateral, *output)

        twice = [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2) for channels in (dim, dim, dim // 2)]
        finest = level(dim // 4, twice[1], LayerNorm2d(dim // 2), nn.GELU(), twice[2])
        self.levels = nn.ModuleList([finest, level(dim // 2, twice[0]), level(dim), level(dim, nn.MaxPool2d(2))])

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Maps by the names that torchvision expects."""
        (features,) = self.vit(images)
        return OrderedDict((str(index), level(features)) for index, level in enumerate(self.levels))


def draw(size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, size, size) of one to three shapes on noise, and their boxes and classes."""
    image, boxes = 0.5 + 0.1 * torch.randn(3, size, size), []
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.randint(1, len(CLASSES), (int(torch.randint(1, 4, ())),))
    for label in labels.tolist():
        radius = int(torch.randint(size // 10, size // 5, ()))
        left, top = torch.randint(0, size - 2 * radius, (2,)).tolist()
        dx, dy = (x - left - radius).abs(), (y - top - radius).abs()
        distance = (torch.maximum(dx, dy), torch.hypot(dx.float(), dy.float()), dx + dy)[label - 1]
        image[:, distance <= radius] = torch.rand(3, 1)
        boxes.append([left, top, left + 2 * radius + 1, top + 2 * radius + 1])
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels}


parser = argparse.ArgumentParser()
parser.add_argument("--model", default="test_vit", help="timm name, plain or with _shc, _dhc or _mhc at its end")
parser.add_argument("--pretrained", action="store_true")
for option, value in {"size": 96, "channels": 256, "steps": 100, "batch-size": 4}.items():
    parser.add_argument(f"--{option}", type=int, default=value)
words = parser.parse_args()
torch.manual_seed(0)
size = {"img_size": words.size, "dynamic_img_size": True}
vit = timm.create_model(words.model, words.pretrained, features_only=True, out_indices=[-1], **size)
anchors = AnchorGenerator(tuple((words.size // part,) for part in (16, 8, 4, 2)), ((0.5, 1.0, 2.0),) * 4)
normalised = {"image_mean": vit.pretrained_cfg["mean"], "image_std": vit.pretrained_cfg["std"]}
padded = {"min_size": words.size, "max_size": words.size, "size_divisible": vit.feature_info.reduction()[-1]}
backbone = SimpleFeaturePyramid(vit, words.channels)
detector = FasterRCNN(backbone, len(CLASSES), rpn_anchor_generator=anchors, **normalised, **padded)
optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
for step in range(words.steps):
    images, targets = zip(*(draw(words.size) for _ in range(words.batch_size)), strict=True)
    loss = sum(detector(list(images), list(targets)).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1}: loss {loss.item():.3f}")
