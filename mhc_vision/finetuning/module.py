"""LightningModule that fine-tunes or probes a pretrained ViT."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mhc_vision.checks import check_number, check_numbers, check_whole_number
from mhc_vision.finetuning.methods import PROBES, Method, choose_parameters
from mhc_vision.finetuning.start import AS_LOADED, Start, start_from
from mhc_vision.models.lora import LoraOptions
from mhc_vision.training.module import ClassificationModule


class FinetuneModule(ClassificationModule):
    """Fine-tunes a pretrained ViT: all of it, adapters, connections, or a probe of its frozen features.

    A plain model that gets connections computes the same as before at step 0. Everything that `ClassificationModule`
    says of batches, optimiser and logs holds here, too.

    Args:
        name: What to start from: a timm name with or without a tag (`vit_base_patch16_224.augreg2_in21k_ft_in1k`, also
            of a registered model with connections), a checkpoint of `mhc-vision train` or `finetune`, a directory that
            timm loads, or `hf-hub:...`.
        num_classes: Outputs of the head. It is new, with weights of zero, where the loaded one has another number.
        method: `full`, `lora` (adapters, connections and head), `connections` (these and the head), `linear` (the head,
            on features of the frozen model) or `knn` (neighbours of such features).
        weights: Of a checkpoint with `EMA`: `default` for the average, `raw` for the weights themselves.
        weights_file: For a timm name: a file in place of the published weights.
        new_head: Give a new head also where the loaded one fits.
        connection: `shc`, `dhc` or `mhc` for a plain start, what a start has that is not plain, `null` for a plain
            start that stays so; `as_loaded` leaves every start as it is. The records of a run have what it came to.
        num_streams: Of the connections, new ones or those that are there; `null` for 4, or for those that are there.
        class_names: Of the data, in the order of its labels (see `start_from`).
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of what they add, before it is divided by the rank.
        lora_dropout: Of their input.
        lora_targets: Which linear layers have one, by the ends of their names.
        probe_lrs: Learning rates that the linear probe tries.
        probe_epochs: Its passes over the features.
        probe_cs: Inverse regularisation strengths that its logistic regression tries.
        knn_k: Neighbours that vote.
        knn_temperature: Of their votes, exp(cosine similarity / temperature).
        connection_lr_scale: As in `ClassificationModule`, but 1 by default: with `auto`, results of fine-tuning went to
            either side (`compare/finetune_auto`).
        training: The other arguments of `ClassificationModule`.

    Attributes:
        start: What was loaded.

    Raises:
        ImportError: If the method needs a package that is missing.
        ValueError: If an argument is out of range, or the start cannot be loaded or does not fit.
    """

    start: Start

    def __init__(
        self,
        name: str,
        num_classes: int,
        method: Method = "full",
        weights: Literal["default", "raw"] = "default",
        weights_file: str | None = None,
        new_head: bool = False,
        connection: Literal[
            "as_loaded", "shc", "dhc", "mhc", "post_norm", "parallel", "resi_dual", "alt_up", "mudd", "attn_res"
        ]
        | None = AS_LOADED,
        num_streams: int | None = None,
        class_names: Sequence[str] | None = None,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        lora_targets: Sequence[str] = ("attn.qkv", "attn.proj"),
        probe_lrs: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        probe_epochs: int = 100,
        probe_cs: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
        knn_k: int = 20,
        knn_temperature: float = 0.07,
        connection_lr_scale: float | Literal["auto"] = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(
            name,
            num_classes,
            pretrained=True,
            fixed_pos_embed=None,
            connection_lr_scale=connection_lr_scale,
            **training,
        )
        # what `name` stood for; a checkpoint can be built again without it
        self.hparams.update(self.start.settings, source=name)
        # the data records them
        del self.hparams["class_names"]
        # for the loggers
        self.save_hyperparameters(dict(self.hparams))

    @property
    def is_probe(self) -> bool:
        """Whether the backbone only gives features."""
        return self.hparams["method"] in PROBES

    def build_model(self) -> nn.Module:
        """The model that the run starts from, with what its method trains."""
        settings = self.hparams
        lora = LoraOptions.from_settings(settings)
        _check_probe(settings)
        self.start = start_from(
            settings["name"],
            **{key: settings[key] for key in ("num_classes", "in_chans", "img_size", "connection", "num_streams")},
            model_args=settings["model_args"],
            weights=settings["weights"],
            weights_file=None if settings["weights_file"] is None else Path(settings["weights_file"]),
            new_head=settings["new_head"],
            class_names=settings["class_names"],
        )
        choose_parameters(self.start.model, settings["method"], lora)
        return self.start.model

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> tuple[Tensor, ...]:
        """Features (B, C) before the head, fp32, and labels (B,), both in main memory."""
        images, labels = batch
        model: Any = self.model
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        return features.float().cpu(), labels.cpu()


def _check_probe(settings: Any) -> None:
    check_numbers("probe_lrs", settings["probe_lrs"], above=0)
    if settings["probe_cs"]:
        check_numbers("probe_cs", settings["probe_cs"], above=0)
    for name in ("probe_epochs", "knn_k"):
        check_whole_number(name, settings[name], at_least=1)
    check_number("knn_temperature", settings["knn_temperature"], above=0)
    if settings["method"] == "linear" and settings["probe_cs"] and importlib.util.find_spec("sklearn") is None:
        raise ImportError("logistic regression (probe_cs) needs scikit-learn: pip install 'mhc-vision[finetune]'")
