"""A run keeps what its last evaluation said of each image, and reports on it."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from mhc_vision.data import DigitsDataModule
from mhc_vision.predictions import Predictions
from mhc_vision.training.callbacks.predictions import CollectPredictions


def test_the_report_tells_what_the_last_validation_found(train):
    run_dir = train("--trainer.max_epochs", "2")
    predictions = Predictions.load(run_dir / "predictions.npz")
    metrics = json.loads((run_dir / "summary.json").read_text())["metrics"]
    # two batches of eight
    assert predictions.totals().sum() == 16
    assert predictions.right().sum() / 16 == pytest.approx(metrics["val/top1"])
    assert predictions.place == "validation after step 6"
    assert predictions.class_names == tuple(str(digit) for digit in range(10))
    # the images are those that were evaluated: pixels of 0..16, normalised and back
    data = DigitsDataModule(8)
    originals = [image.permute(1, 2, 0).tolist() for image, _ in (data.eval_set[index] for index in range(16))]
    assert len(predictions.images)
    for image, label in zip(predictions.images.tolist(), predictions.mistakes.labels, strict=True):
        index = originals.index(image)
        assert data.eval_set[index][1] == label
    text = (run_dir / "report.md").read_text()
    assert "Evaluated: validation after step 6, 16 images" in text
    assert "](figures/accuracy.png)" in text
    page = (run_dir / "report.html").read_text()
    assert "Most confident mistakes" in page
    assert 'src="figures' not in page


def test_an_evaluation_by_itself_leaves_the_records_of_the_run_alone(train):
    run_dir = train()
    before = (run_dir / "predictions.npz").read_bytes()
    train("--ckpt_path", "last", "--trainer.limit_val_batches", "1", subcommand="validate")
    assert (run_dir / "predictions.npz").read_bytes() == before


def test_a_run_that_starts_over_forgets_the_pictures_of_the_last(train):
    run_dir = train()
    train("--overwrite", "true", "--trainer.limit_val_batches", "0")
    assert not (run_dir / "predictions.npz").exists()
    assert not list((run_dir / "figures").glob("confusion.*"))
    assert "## Confusions" not in (run_dir / "report.md").read_text()


class _Targets(LightningModule):
    """Gives logits and is given targets of any kind."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"num_classes": 3})
        self.layer = torch.nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0].flatten(1)).sum()

    def validation_step(self, batch, batch_idx):
        return {"logits": self.layer(batch[0].flatten(1))}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("targets", "is_written"),
    [(torch.tensor([0, 1, 2, 0]), True), (torch.full((4, 3), 1 / 3), False), (torch.tensor([[0, 1]] * 4), False)],
)
def test_targets_that_are_no_classes_have_no_predictions(tmp_path, targets, is_written):
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 2, 2), targets), batch_size=2)
    path = tmp_path / "predictions.npz"
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[CollectPredictions(path)], enable_checkpointing=False, **quiet
    )
    trainer.fit(_Targets(), loader, loader)
    assert path.exists() == is_written
    if is_written:
        assert Predictions.load(path).class_names == ("0", "1", "2")
