"""`config.yaml` of a run: every setting, defaults included."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from mhc_vision.atomic_files import replace_text
from mhc_vision.run_directory import CONFIG


class SaveConfigOnStart(SaveConfigCallback):
    """Writes `config.yaml` when the first step is about to be taken, so a run that never starts changes nothing."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Writes the full configuration, defaults included, on the first process."""
        if trainer.is_global_zero:
            config = self.config.clone()
            # the file repeats a run, also one that was resumed
            if "ckpt_path" in config:
                config["ckpt_path"] = None
            config.pop("overwrite", None)
            settings = trainer.lightning_module.hparams
            if "connection" in settings:
                # what fine-tuning found in its start
                config["model.connection"] = settings["connection"]
                if settings["connection"] is not None:
                    config["model.num_streams"] = settings["num_streams"]
            text = self.parser.dump(config, skip_none=False)
            replace_text(Path(trainer.default_root_dir) / CONFIG, text)
