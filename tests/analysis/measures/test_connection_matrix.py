import pytest
import timm
import torch
from torch import nn

from mhc_vision.analysis.measure_model import as_hyper_connected, measure_model
from mhc_vision.analysis.measures.connection_matrix import ConnectionMatrix, matrix_measures, unfold
from mhc_vision.kernels import Coefficients
from mhc_vision.layers import named_connections, observe_connections, observe_reduction

OPTIONS = {"img_size": 32, "num_classes": 3}


def created(name: str, **options) -> nn.Module:
    return timm.create_model(name, **{**OPTIONS, **options}).eval()


def unfolded(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    maps, weights = [], []
    with (
        torch.no_grad(),
        observe_connections(model, lambda name, streams, tokens, coefficients: maps.append(coefficients)),
        observe_reduction(model, lambda streams, read: weights.append(read)),
    ):
        model(images)
    return unfold(maps, weights[0])


@pytest.mark.parametrize(
    "name", ["test_vit", "test_vit_shc", "vit_small_patch16_dinov3", "vit_small_patch16_dinov3_shc"]
)
def test_a_plain_vit_and_shc_at_its_start_are_lower_triangular_ones(name):
    model = as_hyper_connected(created(name, depth=2))
    size = len(named_connections(model)) + 1
    assert torch.equal(unfolded(model, torch.randn(1, 3, 32, 32)), torch.ones(size, size, dtype=torch.float64).tril())


def test_mhc_at_its_start_is_plain_up_to_rounding():
    matrix = unfolded(created("test_vit_mhc"), torch.randn(1, 3, 32, 32))
    # pre's sigmoids sum to one to the last bit or so of fp32
    torch.testing.assert_close(matrix, torch.ones_like(matrix).tril(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("stream_reduce", ["mean", "sum", "gated"])
@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_the_matrix_predicts_what_every_branch_reads_and_the_output(connection, stream_reduce):
    model = created(f"test_vit_{connection}", depth=3, num_streams=3, stream_reduce=stream_reduce)
    with torch.no_grad():
        for module in [*named_connections(model).values(), model.blocks[-1].reduction]:
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    images = torch.randn(2, 3, 32, 32)
    matrix = unfolded(model, images)

    inputs: list[torch.Tensor] = []
    sources: list[torch.Tensor] = []
    for block in model.blocks:
        for branch in (block.ls1, block.ls2):
            branch.register_forward_hook(lambda module, args, output: sources.append(output))
    model.blocks[0].register_forward_pre_hook(lambda module, args: sources.append(args[0]))
    model.blocks.register_forward_hook(lambda module, args, output: inputs.append(output))
    with torch.no_grad(), observe_connections(model, lambda name, streams, tokens, maps: inputs.append(tokens)):
        model(images)
    assert len(inputs) == len(sources) == 7
    # (B, N, k, source) · (B, N, source, C); a matrix of all tokens broadcasts
    predicted = matrix @ torch.stack(sources, -2).double()
    # fp32 rounding of a few additions of numbers of about 1
    torch.testing.assert_close(predicted, torch.stack(inputs, -2).double(), rtol=1e-5, atol=1e-5)


def set_maps(model: nn.Module, branch: int, pre: list[float], post: list[float], a_r: list[list[float]]) -> None:
    """Sets the HC paper's A_m, B and A_r; our `res` is A_rᵀ."""
    connection = list(named_connections(model).values())[branch]
    with torch.no_grad():
        connection.pre.copy_(torch.tensor(pre))
        connection.post.copy_(torch.tensor(post))
        connection.res.copy_(torch.tensor(a_r).T)


def branches(model: nn.Module) -> list:
    blocks = list(model.blocks)
    return [
        branch
        for block in blocks
        for branch in (lambda x, b=block: b.attention_branch(x, None, False), lambda x, b=block: b.mlp_branch(x))
    ]


def embedded(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(images)))


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.norm(tokens))


def duality_model(stream_reduce: str) -> nn.Module:
    model = created("test_vit_shc", depth=3, num_streams=2, stream_reduce=stream_reduce)
    nn.init.normal_(model.head.weight)
    return model


@torch.no_grad()
def test_the_sequential_matrices_compute_the_sequential_arrangement():
    """HC, Eq. 17 (n = 2): B = (1, 1), A_m = (1, 0), A_r = I: x + f(x) after x + f(x)."""
    model, images = duality_model("mean"), torch.randn(2, 3, 32, 32)
    for branch in range(6):
        set_maps(model, branch, pre=[1, 0], post=[1, 1], a_r=[[1, 0], [0, 1]])
    x = embedded(model, images)
    for f in branches(model):
        x = x + f(x)
    torch.testing.assert_close(model(images), logits(model, x), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_parallel_matrices_compute_the_parallel_arrangement():
    """HC, Eq. 18-19 (n = 2), and its proof in App. H, Eq. 53.

    The first branch of a pair reads the sum h of the streams and puts it into both: B = (1, 0), A_m = (1, 1), A_r all
    ones. The second one leaves the streams as they are: B = (0, 1), A_m = (0, 1), A_r = I. The streams are then
    h + f1(h) and h + f2(h), whose sum is the next pair's h = 2 h + f1(h) + f2(h). At the start it is twice the
    embedding, and a model that sums its streams reads it out.
    """
    model, images = duality_model("sum"), torch.randn(2, 3, 32, 32)
    for block in range(3):
        set_maps(model, 2 * block, pre=[1, 1], post=[1, 0], a_r=[[1, 1], [1, 1]])
        set_maps(model, 2 * block + 1, pre=[0, 1], post=[0, 1], a_r=[[1, 0], [0, 1]])
    h = 2 * embedded(model, images)
    attention_and_mlp = branches(model)
    for first, second in zip(attention_and_mlp[::2], attention_and_mlp[1::2], strict=True):
        h = (h + first(h)) + (h + second(h))
    torch.testing.assert_close(model(images), logits(model, h), rtol=0, atol=1e-5)

    measures = measure_model(model, [(images, torch.tensor([0, 1]))], ["a", "b"])["connection_matrix"]["measures"]
    assert [pair["branches"] for pair in measures["parallel_pairs"]] == [[0, 1], [2, 3], [4, 5]]
    assert all(pair["relative_weight"] == 0 for pair in measures["parallel_pairs"])


@torch.no_grad()
def test_a_parallel_block_without_the_doubled_stream():
    """x + f1(x) + f2(x), as in parallel transformer blocks: the second branch keeps only the first stream's h."""
    model, images = duality_model("sum"), torch.randn(2, 3, 32, 32)
    for block in range(3):
        both = 1.0 if block else 0.5  # the embedding stands in both streams
        set_maps(model, 2 * block, pre=[both, both], post=[1, 0], a_r=[[both, both], [both, both]])
        set_maps(model, 2 * block + 1, pre=[0, 1], post=[0, 1], a_r=[[1, 0], [0, 0]])
    x = embedded(model, images)
    attention_and_mlp = branches(model)
    for first, second in zip(attention_and_mlp[::2], attention_and_mlp[1::2], strict=True):
        x = x + first(x) + second(x)
    torch.testing.assert_close(model(images), logits(model, x), rtol=0, atol=1e-5)


def test_measures_of_matrices_that_show_what_the_paper_describes():
    plain = torch.ones(9, 9, dtype=torch.float64).tril()
    measures = matrix_measures(plain)
    assert measures["embedding_share"] == pytest.approx(1 / 9)
    assert measures["parallel_pairs"] == []
    shape = measures["lambda_shape"]
    assert (shape["near"], shape["early"]) == pytest.approx((shape["plain"]["near"], shape["plain"]["early"]))

    lambda_shaped = torch.eye(9, dtype=torch.float64)
    lambda_shaped[:, 0] = 1
    lambda_shaped[8, 0] = 0  # the embedding is removed from the output
    lambda_shaped[4, 4] = 0.01  # branch 4 does not read branch 3
    measures = matrix_measures(lambda_shaped)
    assert measures["embedding_share"] == 0
    # rows 4 to 7: 1 of 2 near and 1 of 2 early, but for row 4, which has 0.01 of 1.01 near
    assert measures["lambda_shape"]["near"] == pytest.approx((3 * 0.5 + 0.01 / 1.01) / 4)
    assert measures["lambda_shape"]["early"] == pytest.approx((3 * 0.5 + 1 / 1.01) / 4)
    (pair,) = measures["parallel_pairs"]
    assert pair["branches"] == [3, 4]
    assert pair["relative_weight"] == pytest.approx(0.01 / (1.01 / 5))


def test_a_shallow_model_has_no_lambda_shape():
    assert matrix_measures(torch.ones(3, 3, dtype=torch.float64).tril())["lambda_shape"] is None


def test_the_mean_over_batches_is_the_mean_over_all_tokens():
    maps = [Coefficients(torch.randn(6, 5, 2), torch.randn(6, 5, 2), torch.randn(6, 5, 2, 2)) for _ in range(3)]
    weights = torch.tensor([0.5, 0.5])
    parts = ConnectionMatrix()
    for rows in (slice(0, 4), slice(4, 6)):
        parts.add([Coefficients(*(entry[rows] for entry in branch)) for branch in maps], weights)
    result = parts.result()
    matrices = unfold(maps, weights)
    torch.testing.assert_close(torch.tensor(result["matrix"]).double(), matrices.mean((0, 1)), rtol=1e-5, atol=1e-6)
    magnitudes = torch.tensor(result["magnitudes"]).double()
    torch.testing.assert_close(magnitudes, matrices.abs().mean((0, 1)), rtol=1e-5, atol=1e-6)
