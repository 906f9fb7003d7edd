"""LightningModule that trains and evaluates an image classifier."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import Lamb
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from mhc_vision.accuracy import NotFiniteRows, accuracies
from mhc_vision.checks import check_choice, check_number, check_numbers, check_whole_number
from mhc_vision.data.datamodule import checked_metric
from mhc_vision.models.create import ConnectionName, create_classifier, freeze_sincos_pos_embed
from mhc_vision.stored.checkpoint_schema import MODEL_SETTINGS
from mhc_vision.stored.model_args import without_weight_sources
from mhc_vision.training.connection_lr import (
    AUTO,
    check_connection_lr_scale,
    connection_learning_rates,
    connection_lr_scale,
)
from mhc_vision.training.deferred_weights import DeferredWeights, is_deferring
from mhc_vision.training.loss import classification_loss
from mhc_vision.training.param_groups import param_groups
from mhc_vision.training.schedule import warmup_cosine, warmup_cosine_sum
from mhc_vision.training.sharding import is_sharded, shard_model

if TYPE_CHECKING:
    from mhc_vision.training.pipeline.pipeline import Pipeline


class ClassificationModule(LightningModule):
    """Trains a timm classifier, plain, hyper-connected or of another residual design.

    The optimiser is AdamW or LAMB, with linear warm-up and cosine decay.

    Batches are (images float (B, in_chans, H, W), targets); targets are class indices (B,) or, from Mixup and CutMix
    in training, class probabilities (B, num_classes). Logs `train/{loss,lr,grad_norm}`, for connections
    `train/lr_{static,dynamic}`, and `{val,test}/{loss,top1,top5}`; accuracies are fractions in [0, 1], `top5` is there
    with more than five classes, and `mean_per_class` beside `top1` where `metric` asks for it. Images whose logits are
    not finite count as wrong; where there are any, `{val,test}/not_finite` is their number.

    Args:
        name: timm's name of the plain model, e.g. `vit_base_patch16_224`.
        num_classes: Outputs of the head.
        connection: `None` (plain pre-norm residual), `"shc"`, `"dhc"` or `"mhc"`; or a design to compare these with:
            `"post_norm"`, `"parallel"`, `"resi_dual"`, `"alt_up"`, `"mudd"` or `"attn_res"`.
        num_streams: Residual streams of hyper-connections and of AltUp; other models do not look at it.
        in_chans: Channels of the images.
        img_size: Side of the images in pixels; `None` takes the model's own.
        pretrained: Start from timm's weights.
        model_args: Further arguments of `timm.create_model`, options of the connection (`sinkhorn_iters`,
            `constraint`, `stream_reduce`, ...) included.
        fixed_pos_embed: `"sincos2d"` replaces the learned position embedding by a frozen 2-D sine-cosine table.
        lr: Peak learning rate at the batch size in use; nothing scales it.
        weight_decay: As torch's AdamW counts it, decoupled (each step takes `lr * weight_decay`); LAMB
            adds it to the update, before its trust ratio.
        betas: The optimiser's two decay rates.
        eps: The optimiser's epsilon.
        optimizer: `"adamw"`, or `"lamb"` (timm's, with its clipping of the global norm at 1).
        connection_lr_scale: Factor on the learning rate of the connections' parameters; `"auto"` chooses it by the
            length and the rate of the run (see `mhc_vision.training.connection_lr`).
        layer_decay: Factor on the learning rate from a layer of the backbone to the one below it; 1 for none.
        warmup_steps: Optimiser steps of linear warm-up; give this or `warmup_epochs`, or none for no warm-up.
        warmup_epochs: Epochs of linear warm-up.
        min_lr: Learning rate at the end of the cosine.
        loss: `"ce"` (softmax cross-entropy) or `"bce"` (a sigmoid for each class, DeiT-III).
        label_smoothing: Share of the target spread over all classes; only with `"ce"` and only in training.
        compile: Compile the model with `torch.compile` before training.
        metric: By which models are compared and the best checkpoint is kept: `"top1"`, or `"mean_per_class"`, the mean
            of the accuracies of the classes that occur; the data says it.

    Raises:
        ValueError: If an argument is out of range or names something unknown.
    """

    # set by `PipelineStrategy`
    pipeline: "Pipeline | None" = None

    def __init__(
        self,
        name: str,
        num_classes: int,
        connection: ConnectionName | None = None,
        num_streams: int = 4,
        in_chans: int = 3,
        img_size: int | None = None,
        pretrained: bool = False,
        model_args: dict[str, Any] | None = None,
        fixed_pos_embed: Literal["sincos2d"] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        optimizer: Literal["adamw", "lamb"] = "adamw",
        connection_lr_scale: float | Literal["auto"] = "auto",
        layer_decay: float = 1.0,
        warmup_steps: int | None = None,
        warmup_epochs: float | None = None,
        min_lr: float = 0.0,
        loss: Literal["ce", "bce"] = "ce",
        label_smoothing: float = 0.0,
        compile: bool = False,
        metric: str = "top1",
    ) -> None:
        super().__init__()
        # plain types only: checkpoints are loaded with weights_only=True
        self.save_hyperparameters()
        _check_model_numbers(num_classes, num_streams, in_chans, img_size)
        check_number("lr", lr, above=0)
        check_number("min_lr", min_lr, at_least=0, at_most=lr)
        check_number("weight_decay", weight_decay, at_least=0)
        check_numbers("betas", betas, length=2, at_least=0, below=1)
        check_number("eps", eps, above=0)
        check_connection_lr_scale(connection_lr_scale)
        check_number("layer_decay", layer_decay, above=0, at_most=1)
        if warmup_steps is not None:
            check_whole_number("warmup_steps", warmup_steps, at_least=0)
        if warmup_epochs is not None:
            check_number("warmup_epochs", warmup_epochs, at_least=0)
        if warmup_steps is not None and warmup_epochs is not None:
            raise ValueError(
                f"warmup_steps: got {warmup_steps} with warmup_epochs={warmup_epochs}, expected one of them"
            )
        check_choice("optimizer", optimizer, ("adamw", "lamb"))
        if fixed_pos_embed not in (None, "sincos2d"):
            raise ValueError(f"fixed_pos_embed: got {fixed_pos_embed!r}, expected null or 'sincos2d'")
        self.training_loss, self.validation_loss = self.build_losses()
        self.val_accuracy, self.test_accuracy = self.build_metrics("val/"), self.build_metrics("test/")
        self.not_finite_rows = NotFiniteRows()
        self._deferred_weights = DeferredWeights() if is_deferring() else None
        with self._deferred_weights or nullcontext():
            self.model = self.build_model()
            if fixed_pos_embed is not None:
                freeze_sincos_pos_embed(self.model)
        # a checkpoint has its weights: its record says nothing of where these ones came from
        if self.hparams["model_args"] is not None:
            self.hparams["model_args"] = without_weight_sources(self.hparams["model_args"])

    def build_losses(self) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
        """Losses of logits and targets: that of training, and that of validation and test."""
        loss = self.hparams["loss"]
        return classification_loss(loss, self.hparams["label_smoothing"]), classification_loss(loss)

    def build_metrics(self, prefix: str) -> MetricCollection:
        """What validation and test measure; names begin with the prefix."""
        metric = self.hparams["metric"]
        if metric == "mean_iou":
            raise ValueError(
                "data: got a class for each pixel, expected one for each image; to segment, take finetune with "
                "--model.decoder"
            )
        checked_metric(metric)
        return accuracies(self.hparams["num_classes"], mean_per_class=metric == "mean_per_class", prefix=prefix)

    def build_model(self) -> nn.Module:
        """The model that the hyper-parameters describe."""
        names = (*MODEL_SETTINGS, "pretrained")
        return create_classifier(**{name: self.hparams[name] for name in names})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.model(images) if self.pipeline is None else self.pipeline(images)

    def setup(self, stage: str) -> None:
        """Compiles the model in place, which keeps the names in its checkpoints."""
        if stage == "fit" and self.trainer.gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(
                f"trainer.gradient_clip_algorithm: got {str(self.trainer.gradient_clip_algorithm.value)!r}, "
                "expected 'norm', the only one this module clips by"
            )
        if stage == "fit" and self.trainer.gradient_clip_val is not None:
            check_number("trainer.gradient_clip_val", self.trainer.gradient_clip_val, at_least=0)
        if self.hparams["compile"]:
            self.model.compile()

    def configure_model(self) -> None:
        """Shards the model where the strategy is Lightning's `ModelParallelStrategy`, and does nothing elsewhere."""
        if self.device_mesh is not None and not is_sharded(self.model):
            shard_model(self.model, self.device_mesh, self._deferred_weights)
            self._deferred_weights = None

    def on_train_start(self) -> None:
        """Says what `connection_lr_scale: auto` has chosen; a resumed run keeps what was chosen at its start."""
        peaks = connection_learning_rates(self.trainer.optimizers, "initial_lr")
        if self.hparams["connection_lr_scale"] == AUTO and "static" in peaks:
            factor = peaks["static"] / self.hparams["lr"]
            rank_zero_info(f"connections learn at {factor:.3g} times the model's rate (connection_lr_scale: {AUTO})")

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Training loss of a batch."""
        images, targets = batch
        if self.pipeline is None:
            loss = self.training_loss(self(images), targets)
        else:
            # with its backward pass
            scale = 1.0 / self.trainer.accumulate_grad_batches
            loss = self.pipeline.train(images, targets, self.training_loss, scale)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(images))
        for kind, rate in connection_learning_rates(self.trainer.optimizers).items():
            self.log(f"train/lr_{kind}", rate, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Adds a batch to the validation figures; gives its `logits` to callbacks."""
        return self._evaluate(batch, self.val_accuracy, "val/loss")

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Adds a batch to the test figures; gives its `logits` to callbacks."""
        return self._evaluate(batch, self.test_accuracy, "test/loss")

    def on_validation_epoch_end(self) -> None:
        """Names the number of images whose logits are not finite."""
        self._log_not_finite("val")

    def on_test_epoch_end(self) -> None:
        """Names the number of images whose logits are not finite."""
        self._log_not_finite("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over the named parameter groups, with a schedule that moves every optimiser step."""
        lr, final_factor = self.hparams["lr"], self.hparams["min_lr"] / self.hparams["lr"]
        steps = {"warmup_steps": self._warmup_steps(), "total_steps": self._total_steps()}
        groups = param_groups(
            self.model,
            lr=lr,
            weight_decay=self.hparams["weight_decay"],
            connection_lr_scale=connection_lr_scale(
                self.hparams["connection_lr_scale"],
                lr * warmup_cosine_sum(**steps, final_factor=final_factor),
                self.model,
            ),
            layer_decay=self.hparams["layer_decay"],
        )
        options = {"betas": tuple(self.hparams["betas"]), "eps": self.hparams["eps"]}
        # the fused kernel unscales fp16 gradients itself, after they would have been clipped; in a pipeline it would
        # refuse what other processes have
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed" and self.pipeline is None
        lamb = self.hparams["optimizer"] == "lamb"
        optimizer = Lamb(groups, **options) if lamb else torch.optim.AdamW(groups, **options, fused=fused)
        scheduler = warmup_cosine(optimizer, **steps, final_factor=final_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Leaves gradients that a pipeline has made by now: its strategy sets them to zero after each step."""
        if self.pipeline is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the global norm and logs the norm before clipping, also when nothing is clipped.

        Lightning's own clipping refuses the fused AdamW under mixed precision and does not return the norm.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.pipeline is not None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            grad_norm = self.pipeline.total_norm(torch.nn.utils.get_total_norm(gradients))
            if gradient_clip_val:
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, grad_norm)
        elif gradient_clip_val:
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients)
        # of a sharded model it is spread over the processes, too
        grad_norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
        self.log("train/grad_norm", grad_norm, prog_bar=True)

    def _evaluate(
        self, batch: tuple[torch.Tensor, torch.Tensor], accuracy: MetricCollection, loss_name: str
    ) -> dict[str, torch.Tensor]:
        images, labels = batch
        logits = self(images)
        accuracy.update(logits, labels)
        self.not_finite_rows.update(logits)
        self.log_dict(accuracy, on_step=False, on_epoch=True, batch_size=len(images))
        self.log(
            loss_name,
            self.validation_loss(logits, labels),
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(images),
        )
        return {"logits": logits}

    def _log_not_finite(self, stage: str) -> None:
        # all processes have the same number, and log it or not
        count = int(self.not_finite_rows.compute())
        self.not_finite_rows.reset()
        name = f"{stage}/not_finite"
        if count:
            rank_zero_warn(f"{stage}: the logits of {count} images are not finite; they count as wrong")
        # the figure of an earlier epoch would stay
        if count or name in self.trainer.callback_metrics:
            self.log(name, float(count))

    def _total_steps(self) -> int:
        total_steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(total_steps) or total_steps < 0:
            raise ValueError(
                "trainer.max_steps: got a run of unknown length, expected a length for the learning-rate schedule; "
                "set trainer.max_epochs or trainer.max_steps"
            )
        return int(total_steps)

    def _warmup_steps(self) -> int:
        if self.hparams["warmup_epochs"] is None:
            return self.hparams["warmup_steps"] or 0
        # estimated_stepping_batches sets the training data up only where max_epochs limits the run
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        if not math.isfinite(batches):
            raise ValueError(
                f"warmup_epochs: got {self.hparams['warmup_epochs']}, expected null for training data of unknown "
                "length; set warmup_steps instead"
            )
        steps_per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        return round(self.hparams["warmup_epochs"] * steps_per_epoch)


def _check_model_numbers(num_classes: int, num_streams: int, in_chans: int, img_size: int | None) -> None:
    numbers = {"num_classes": num_classes, "num_streams": num_streams, "in_chans": in_chans, "img_size": img_size}
    for name, value in numbers.items():
        if name != "img_size" or value is not None:
            check_whole_number(name, value, at_least=1)
    if num_classes < 2:
        raise ValueError(f"num_classes: got {num_classes}, expected at least 2; one class leaves nothing to learn")
