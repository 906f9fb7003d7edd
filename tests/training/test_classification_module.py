import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

import mhc_vision  # noqa: F401  registers the models
from mhc_vision.training import ClassificationModule

TINY = {
    "name": "test_vit",
    "num_classes": 10,
    "in_chans": 1,
    "img_size": 8,
    "model_args": {"patch_size": 4, "depth": 1, "dynamic_img_size": False},
}


def _loader(soft: bool = False, num_samples: int = 12) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_samples, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (num_samples,), generator=generator)
    targets = torch.nn.functional.one_hot(labels, 10).float().roll(1, 0) * 0.5 + 0.05 if soft else labels
    return DataLoader(TensorDataset(images, targets), batch_size=4)


def _trainer(tmp_path, **options) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    defaults = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "default_root_dir": tmp_path}
    return Trainer(**quiet | defaults | options)


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_trains_on_hard_and_on_mixed_targets(tmp_path, soft, loss):
    module = ClassificationModule(**TINY, connection="mhc", loss=loss)
    before = module.model.head.weight.clone()
    trainer = _trainer(tmp_path)
    trainer.fit(module, _loader(soft), _loader())
    assert not torch.equal(module.model.head.weight, before)
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_bf16_mixed_runs_on_the_cpu_and_keeps_fp32_weights(tmp_path):
    module = ClassificationModule(**TINY, connection="mhc")
    trainer = _trainer(tmp_path, precision="bf16-mixed", gradient_clip_val=1.0)
    trainer.fit(module, _loader(), _loader())
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_validation_figures_are_those_of_all_samples(tmp_path):
    module = ClassificationModule(**TINY, label_smoothing=0.3)
    loader = _loader(num_samples=10)  # the last batch is smaller
    (logged,) = _trainer(tmp_path).validate(module, loader, verbose=False)
    images, labels = loader.dataset.tensors
    with torch.no_grad():
        logits = module.eval()(images)
    assert logged["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert logged["val/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    in_top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert logged["val/top5"] == pytest.approx(in_top5.float().mean().item())


def test_five_classes_or_fewer_have_no_top5():
    assert set(ClassificationModule(**TINY | {"num_classes": 5}).val_accuracy) == {"val/top1"}


def test_the_mean_of_the_classes_accuracies_is_logged_where_the_data_asks_for_it(tmp_path):
    module = ClassificationModule(**TINY, metric="mean_per_class")
    loader = _loader(num_samples=50)
    for stage, logged in (
        ("val", _trainer(tmp_path).validate(module, loader, verbose=False)[0]),
        ("test", _trainer(tmp_path).test(module, loader, verbose=False)[0]),
    ):
        images, labels = loader.dataset.tensors
        with torch.no_grad():
            right = module.eval()(images).argmax(1) == labels
        classes = [right[labels == label].float().mean().item() for label in labels.unique()]
        assert logged[f"{stage}/mean_per_class"] == pytest.approx(sum(classes) / 10)
        assert logged[f"{stage}/top1"] == pytest.approx(right.float().mean().item())
    assert "val/mean_per_class" not in ClassificationModule(**TINY).val_accuracy


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_gradient_norm_is_logged_and_clipping_bounds_it(tmp_path, clip):
    norms = []

    class Recorder(ClassificationModule):
        def configure_gradient_clipping(self, optimizer, *args, **kwargs):
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients).item())

    trainer = _trainer(tmp_path, gradient_clip_val=clip)
    trainer.fit(Recorder(**TINY), _loader())
    logged = trainer.callback_metrics["train/grad_norm"].item()
    assert logged > 0.1
    assert norms[-1] == pytest.approx(logged if clip is None else clip, rel=1e-3)


def test_the_learning_rate_follows_the_schedule_step_by_step(tmp_path):
    rates = []

    class Recorder(ClassificationModule):
        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.optimizers().param_groups[0]["lr"])

    _trainer(tmp_path, max_epochs=2).fit(Recorder(**TINY, lr=1e-3, min_lr=1e-4, warmup_epochs=1), _loader())
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert rates[3] > rates[4] > rates[5] > 1e-4


def test_a_warmup_longer_than_the_run_stops_before_the_first_step(tmp_path):
    module = ClassificationModule(**TINY, warmup_steps=7)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"warmup_steps: got 7, expected at most the 6 steps of the run"):
        _trainer(tmp_path, max_epochs=2).fit(module, _loader())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_clipping_by_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gradient_clip_algorithm: got 'value', expected 'norm'"):
        _trainer(tmp_path, gradient_clip_val=1.0, gradient_clip_algorithm="value").fit(
            ClassificationModule(**TINY), _loader()
        )


def test_a_compiled_model_keeps_the_names_in_its_checkpoint(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    module = ClassificationModule(**TINY, compile=True)
    names = set(module.state_dict())
    _trainer(tmp_path).fit(module, _loader())
    assert compiled == ["VisionTransformer"]
    assert set(module.state_dict()) == names


def test_a_checkpoint_restores_the_module_safely(tmp_path):
    module = ClassificationModule(**TINY, connection="mhc", num_streams=2)
    trainer = _trainer(tmp_path)
    trainer.fit(module, _loader())
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    restored = ClassificationModule.load_from_checkpoint(tmp_path / "some.ckpt", weights_only=True)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(restored.eval()(images), module.eval()(images), rtol=0, atol=0)


def test_a_checkpoint_without_a_metric_is_one_of_top1(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.fit(ClassificationModule(**TINY), _loader())
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    content = torch.load(tmp_path / "some.ckpt", weights_only=True)
    del content["hyper_parameters"]["metric"]
    torch.save(content, tmp_path / "some.ckpt")
    restored = ClassificationModule.load_from_checkpoint(tmp_path / "some.ckpt", weights_only=True)
    assert restored.hparams["metric"] == "top1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr: got 0.0, expected a finite number above 0"),
        ({"lr": float("nan")}, "lr: got nan, expected a finite number above 0"),
        ({"num_streams": 0, "connection": "mhc"}, "num_streams: got 0, expected a whole number from 1"),
        ({"weight_decay": -0.1}, "weight_decay: got -0.1, expected a finite number at least 0"),
        ({"optimizer": "sgd"}, "optimizer: got 'sgd', expected one of adamw, lamb"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]: got 1.0, expected a finite number at least 0 and below 1"),
        ({"min_lr": 1.0}, "min_lr: got 1.0, expected a finite number at least 0 and at most 0.001"),
        ({"warmup_steps": 1, "warmup_epochs": 1.0}, "warmup_steps: got 1 with warmup_epochs=1.0, expected one of them"),
        ({"connection_lr_scale": 0.0}, "connection_lr_scale: got 0.0, expected a finite number above 0"),
        ({"metric": "f1"}, "metric: got 'f1', expected one of top1, mean_per_class"),
        ({"fixed_pos_embed": "rope"}, "fixed_pos_embed: got 'rope', expected null or 'sincos2d'"),
    ],
)
def test_bad_arguments_are_named_with_what_came(change, message):
    with pytest.raises(ValueError, match=message):
        ClassificationModule(**TINY | change)
