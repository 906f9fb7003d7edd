import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import mhc_vision
from mhc_vision.layers import CONNECTIONS, create_connection
from mhc_vision.models.instruments.costs import image_macs


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_formula_counts_the_matrix_products_of_the_maps(connection):
    n, dim, num_tokens = 3, 16, 5
    module = create_connection(connection, dim, n)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.coefficients(torch.randn(num_tokens, n, dim))
    read_and_merge = (n + n * n + n) * dim
    assert counter.get_total_flops() / 2 == num_tokens * (module.macs() - read_and_merge)


def test_an_image_costs_the_plain_model_and_its_connections_once_a_token():
    size = (3, 32, 32)
    plain = timm.create_model("test_vit", img_size=32, depth=2).train()
    # C = 64, MLP ratio 3, four patches of 16 x 16 and a class token: embedding, head, two blocks with attention
    block = 5 * (3 + 1 + 2 * 3) * 64 * 64 + 2 * 5 * 5 * 64
    assert image_macs(plain, size) == 4 * 3 * 16 * 16 * 64 + 64 * 1000 + 2 * block
    hyper = mhc_vision.hyperconnect(plain, "mhc", 2)
    before = {name: value.clone() for name, value in hyper.state_dict().items()}
    # n = 2: two connections in each block
    branch = 5 * ((2 * 2 + 2 * 2) * 2 * 64 + (2 + 4 + 2) * 64)
    assert image_macs(hyper, size) == image_macs(plain, size) + 4 * branch
    assert hyper.training
    for name, value in hyper.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
