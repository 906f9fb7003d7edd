"""The parts of a training with a plain `lightning.Trainer`: module, data and callbacks, without the command line."""

from lightning.pytorch import Trainer

from mhc_vision.data import DigitsDataModule
from mhc_vision.training.callbacks.connection_monitor import ConnectionMonitor
from mhc_vision.training.callbacks.ema import EMA
from mhc_vision.training.module import ClassificationModule

data = DigitsDataModule(batch_size=32)
shape = {"num_classes": data.num_classes, "in_chans": data.in_chans, "img_size": data.img_size}
model_args = {"depth": 2, "patch_size": 4, "dynamic_img_size": False}
module = ClassificationModule("test_vit", connection="mhc", model_args=model_args, lr=2e-3, warmup_epochs=1, **shape)
callbacks = [ConnectionMonitor(every_n_steps=20), EMA(decay=0.98)]
# the data module divides the images between processes itself
trainer = Trainer(max_epochs=2, gradient_clip_val=1.0, callbacks=callbacks, use_distributed_sampler=False)
trainer.fit(module, data)
print(trainer.test(module, data))
