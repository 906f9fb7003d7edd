import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported: without a GPU its kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

# test processes run side by side and their tensors are small: a second thread each would only make them wait
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, alone or in any order."""
    torch.manual_seed(0)
