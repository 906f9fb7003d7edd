"""A training step or a forward pass of a model, as something to time, and the memory that it takes."""

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


class Step:
    """Call it for one step.

    A training step is forward, cross entropy, backward and an AdamW step (fused on a GPU); else it is a forward pass in
    inference mode.

    Args:
        model: On the device of the images; it is put into training or evaluation mode.
        images: (B, channels, height, width).
        train: Whether to train.
        autocast: Run under autocast in bf16.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, train: bool, autocast: bool = False) -> None:
        self.model = model.train(train)
        self.images = images
        self.autocast = autocast
        # time and memory do not depend on the classes; a model without a head has its features instead
        self.labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=images.is_cuda) if train else None

    def __call__(self) -> None:
        """Runs it, and on a GPU returns before it has ended."""
        if self.optimizer is None:
            with torch.inference_mode():
                self._forward()
            return
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self._forward().float(), self.labels).backward()
        self.optimizer.step()

    def peak_memory(self) -> int | None:
        """Most bytes at one time during a step, of weights, gradients, optimiser and activations; images do not count.

        They are those that PyTorch's allocator has given out, on a GPU and on a CPU; `None` on other devices. A first
        step has to come before, which makes the optimiser's state.
        """
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        kind = self.images.device.type
        if kind not in ("cpu", "cuda"):
            return None
        return self._held_bytes() + (self._cuda_rise() if kind == "cuda" else self._cpu_rise())

    def _forward(self) -> Tensor:
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.model(self.images)
        return logits

    def _held_bytes(self) -> int:
        """Weights, buffers and optimiser state; tied ones count once."""
        state = () if self.optimizer is None else self.optimizer.state.values()
        tensors = [value for entry in state for value in entry.values() if isinstance(value, Tensor)]
        storages = (tensor.untyped_storage() for tensor in (*self.model.parameters(), *self.model.buffers(), *tensors))
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def _cuda_rise(self) -> int:
        device = self.images.device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        self()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    def _cpu_rise(self) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        # device type 0 is the CPU
        changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
        held = most = 0
        for change in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
            held += change["args"]["Bytes"]
            most = max(most, held)
        return most
