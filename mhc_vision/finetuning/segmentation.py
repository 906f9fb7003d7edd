"""LightningModule that fine-tunes a pretrained ViT for semantic segmentation."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torchmetrics import MetricCollection

from mhc_vision.checks import check_choice
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.models.segmenter import DECODER_SETTINGS, Decoder, Segmenter, check_decoder
from mhc_vision.segmentation_scores import IGNORED, MeanIoU, pixel_losses, segmentation_scores

MaskLoss = Literal["ce", "dice", "ce_dice", "focal", "lovasz"]


class SegmentationModule(FinetuneModule):
    """Fine-tunes a ViT under a decoder; the decoder always learns, of the ViT what `method` says.

    Batches are (images float (B, in_chans, H, W), masks int64 (B, H, W)), with 255 where a pixel has no class. Images
    of validation and test have any size: windows of `img_size` slide over them, and logits are resized to the masks.
    Logs `{val,test}/{loss,mean_iou,mean_dice,pixel_accuracy}` and `{val,test}/iou/<class>` beside what
    `ClassificationModule` logs; the loss is the cross-entropy, a mean over pixels and then over images.

    Args:
        name: What to start from, as in `FinetuneModule`; its head is taken away.
        num_classes: Classes of a pixel.
        decoder: `linear`, `dpt` or `upernet` (see `mhc_vision.models.segmenter.Segmenter`).
        decoder_channels: Width of the last two.
        mask_loss: What training minimises: cross-entropy, Dice, their sum, focal or Lovász-softmax loss, all but the
            first those of segmentation_models_pytorch.
        window_stride: Pixels from one window to the next; `null` for two thirds of a window.
        metric: By which the best checkpoint is kept: the data's, `mean_iou`.
        finetuning: The other arguments of `FinetuneModule`; the method `knn` is none of segmentation.

    Raises:
        ImportError: If segmentation_models_pytorch is missing.
        ValueError: If an argument is out of range, or the start cannot be loaded or does not fit.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        decoder: Decoder = "dpt",
        decoder_channels: int = 256,
        mask_loss: MaskLoss = "ce",
        window_stride: int | None = None,
        metric: str = "mean_iou",
        **finetuning: Any,
    ) -> None:
        check_choice("mask_loss", mask_loss, get_args(MaskLoss))
        check_decoder(decoder, decoder_channels)
        if metric != "mean_iou":
            raise ValueError(
                "model.decoder: got one for data with a class for each image, expected data with a class for each "
                "pixel; take SegmentationDataModule, or leave the decoder out"
            )
        super().__init__(name, num_classes, metric=metric, **finetuning)

    @property
    def is_probe(self) -> bool:
        """Never: a decoder on frozen features is trained step by step."""
        return False

    def build_model(self) -> nn.Module:
        """The decoder on what the run starts from."""
        settings = self.hparams
        if settings["method"] == "knn":
            raise ValueError("method: got 'knn', expected full, lora, connections or linear for segmentation")
        if (settings["loss"], settings["label_smoothing"]) != ("ce", 0.0):
            raise ValueError("loss: got another one than that of pixels, expected it as mask_loss")
        model = Segmenter(super().build_model(), **{key: settings[key] for key in ("num_classes", *DECODER_SETTINGS)})
        self.start = dataclasses.replace(self.start, head=f"decoder {settings['decoder']}, new")
        return model

    def configure_model(self) -> None:
        """Refuses to be sharded: an image has as many forward passes as windows, and all processes gather in each."""
        if self.device_mesh is not None:
            raise ValueError(
                "trainer.strategy: got ModelParallelStrategy for segmentation, expected DDP: processes with images of "
                "different sizes would wait for each other forever"
            )

    def setup(self, stage: str) -> None:
        """Raises ValueError for batches of one image, which UPerNet's batch norm of pooled images cannot learn from."""
        super().setup(stage)
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if stage == "fit" and self.hparams["decoder"] == "upernet" and batch_size == 1:
            raise ValueError("batch_size: got 1, expected at least 2 in each process for decoder upernet; or take dpt")

    def build_losses(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """That of training, and cross-entropy."""
        return mask_loss(self.hparams["mask_loss"]), mask_loss("ce")

    def build_metrics(self, prefix: str) -> MetricCollection:
        """Scores of pixels."""
        return segmentation_scores(self.hparams["num_classes"], prefix)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) of images (B, in_chans, H, W); of another size than the model's by windows."""
        model: Any = self.model
        return model.predict(images)

    def on_validation_epoch_end(self) -> None:
        """Logs the score of each class."""
        super().on_validation_epoch_end()
        self._log_class_iou("val", self.val_accuracy)

    def on_test_epoch_end(self) -> None:
        """Logs the score of each class."""
        super().on_test_epoch_end()
        self._log_class_iou("test", self.test_accuracy)

    def _log_class_iou(self, stage: str, scores: MetricCollection) -> None:
        mean_iou: Any = scores["mean_iou"]
        assert isinstance(mean_iou, MeanIoU)
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or range(self.hparams["num_classes"])
        # `compute` alone would do so
        with mean_iou.sync_context():
            values = mean_iou.class_iou().tolist()
        self.log_dict({f"{stage}/iou/{name}": value for name, value in zip(names, values, strict=True)})


def mask_loss(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (B, num_classes, H, W) and masks (B, H, W), classes or `IGNORED`; 0 of no pixels.

    Args:
        kind: As in `SegmentationModule`. Cross-entropy is the mean over the pixels of each image, then over images.
    """

    def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
        return pixel_losses(logits, masks).mean()

    if kind == "ce":
        return cross_entropy
    from segmentation_models_pytorch import losses

    kinds = {
        "dice": losses.DiceLoss,
        "ce_dice": losses.DiceLoss,
        "focal": losses.FocalLoss,
        "lovasz": losses.LovaszLoss,
    }
    of_library = kinds[kind]("multiclass", ignore_index=IGNORED)

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        # some of the library's are NaN or empty then
        if (masks == IGNORED).all():
            return cross_entropy(logits, masks)
        added = cross_entropy(logits, masks) if kind == "ce_dice" else 0.0
        return of_library(logits.float(), masks) + added

    return loss
