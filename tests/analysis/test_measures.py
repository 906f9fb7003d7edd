import copy
import math

import pytest
import timm
import torch
from torch import nn

from mhc_vision.analysis.figures.map_figure import change_scale
from mhc_vision.analysis.measure_model import measure_model
from mhc_vision.analysis.measures.branch_similarity import BranchSimilarity
from mhc_vision.analysis.measures.coefficient_distribution import CoefficientDistribution
from mhc_vision.analysis.measures.gain_profile import GainProfile
from mhc_vision.analysis.measures.map_travel import MapTravel
from mhc_vision.analysis.measures.sinkhorn_residual import SinkhornResidual, column_residual
from mhc_vision.analysis.measures.stream_statistics import StreamStatistics, stream_cosine, stream_norms
from mhc_vision.analysis.measures.token_statistics import TokenMoments, TokenQuantiles
from mhc_vision.analysis.summary_table import summary_rows
from mhc_vision.kernels import Coefficients, sinkhorn_knopp
from mhc_vision.layers import named_connections
from mhc_vision.models.instruments.contribution import image_losses


def test_moments_of_parts_are_those_of_the_whole():
    values = 100 + torch.randn(10, 7, 3, dtype=torch.float64)
    moments = TokenMoments(1)
    for part in values.split(4):
        moments.add(part)
    torch.testing.assert_close(moments.mean, values.mean((0, 1)))
    torch.testing.assert_close(moments.std, values.flatten(0, 1).std(0, correction=0))


def test_quantiles_over_parts():
    quantiles = TokenQuantiles()
    for part in torch.randperm(101).split(30):
        quantiles.add(part)
    assert quantiles.result() == {"median": 50, "p5": 5, "p95": 95, "max": 100}


def test_gains_of_constructed_maps():
    double, swap = 2 * torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    mixing = torch.tensor([[1.0, 1.0], [0.0, 0.5]])
    profile = GainProfile()
    profile.add([double, swap, mixing])
    result = profile.result()
    assert result["forward"] == [2, 1, 2]
    assert result["backward"] == [2, 1, 1.5]
    # mixing · swap · double = [[2, 2], [1, 0]]
    assert result["composite_forward"] == [4, 2, 2]
    assert result["composite_backward"] == [3, 1.5, 1.5]
    assert result["column_error"] == pytest.approx([math.log(2), 0, math.log(1.5)])


def test_gains_of_batches_count_by_their_images():
    profile = GainProfile()
    profile.add([torch.eye(2).expand(3, 5, 2, 2)], weight=3)
    profile.add([5 * torch.eye(2).expand(1, 5, 2, 2)], weight=1)
    assert profile.result()["forward"] == [2]
    assert profile.result()["column_error"] == pytest.approx([math.log(5)])


def test_column_sums_that_are_not_positive_are_not_hidden():
    profile = GainProfile()
    profile.add([torch.tensor([[1.0, -1.0], [0.0, 0.0]])])
    assert not math.isfinite(profile.result()["column_error"][0])


def test_the_summary_does_not_pass_over_a_negative_column_sum():
    model = timm.create_model("test_vit_shc", depth=2, img_size=32).eval()
    with torch.no_grad():
        # branch 2, behind others whose column errors are numbers
        model.blocks[1].connection1.res[:, 0] = -1
    record = measure_model(model, [(torch.randn(1, 3, 32, 32), torch.tensor([0]))], ["a"])
    values = {row["measure"]: row["value"] for row in summary_rows(record)}
    assert values["largest |log column sum| of a branch"] == "nan"
    assert values["largest |log column sum| of a product"] == "nan"


def test_sinkhorn_residual_falls_with_iterations():
    logits = 3 * torch.randn(50, 4, 4)
    residual = SinkhornResidual((1, 5, 50))
    residual.add(2, logits[:20])
    residual.add(2, logits[20:])
    result = residual.result()
    assert result["branches"] == [2]
    (largest,), (median,) = result["max"], result["median"]
    assert largest == sorted(largest, reverse=True)
    assert largest[1] == pytest.approx(column_residual(sinkhorn_knopp(logits.double(), 5)).max().item(), rel=1e-6)
    assert all(low < high for low, high in zip(median, largest, strict=True))


def test_the_model_s_own_iterations_are_among_those_looked_at():
    model = timm.create_model("test_vit_mhc", depth=1, img_size=32, sinkhorn_iters=7).eval()
    record = measure_model(model, [(torch.randn(1, 3, 32, 32), torch.tensor([0]))], ["a"])
    assert record["sinkhorn"]["iterations"] == [1, 2, 3, 5, 7, 10, 20, 50]
    assert record["model"]["sinkhorn_iters"] == 7


def test_cosine_and_norms_of_streams():
    assert stream_cosine(torch.randn(1, 8).expand(3, 8)) == pytest.approx(1)
    assert stream_cosine(torch.eye(3, 8)) == pytest.approx(0, abs=1e-12)
    assert stream_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1)
    assert stream_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist() == [5, 2]


def test_one_stream_has_norms_only():
    statistics = StreamStatistics()
    statistics.add(0, torch.ones(2, 3, 1, 4))
    assert statistics.result() == {"norm": [[2.0]], "share": [[1.0]], "cosine": None, "effective_rank": None}


def test_similarity_of_adjacent_branches_token_by_token():
    similarity = BranchSimilarity()
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    for tokens in torch.randn(2, 4, 5, 2):
        similarity.add(0, tokens)
        similarity.add(1, 3 * tokens)
        similarity.add(2, tokens @ turn)
    first, second = similarity.result()
    assert first == pytest.approx({"branch": 1, "median": 1, "p5": 1, "p95": 1})
    assert second == pytest.approx({"branch": 2, "median": 0, "p5": 0, "p95": 0}, abs=1e-6)


def maps_of_images(pre: torch.Tensor) -> Coefficients:
    """Maps (B, 3 tokens, ...) of n = 2 streams whose first `pre` is this for each image; the rest never differs."""
    num_images = len(pre)
    all_pre = torch.full((num_images, 3, 2), 0.5)
    # tokens differ around the image's mean
    all_pre[..., 0] = pre[:, None] + torch.tensor([-1.0, 0.0, 1.0])
    return Coefficients(all_pre, torch.ones(num_images, 3, 2), torch.eye(2).expand(num_images, 3, 2, 2))


def test_coefficients_that_the_class_decides_and_some_that_it_does_not():
    labels = torch.arange(60) % 3
    decided = labels.float() + 0.01 * torch.randn(60)
    undecided = torch.randn(60)
    distribution = CoefficientDistribution()
    for rows in (slice(0, 32), slice(32, 60)):
        distribution.add([maps_of_images(values[rows]) for values in (decided, undecided)], labels[rows])
    result = distribution.result(["red", "green", "blue"])
    assert result["entries"] == ["pre 0", "pre 1", "post 0", "post 1", "res 0,0", "res 0,1", "res 1,0", "res 1,1"]
    assert result["num_images"] == {"red": 20, "green": 20, "blue": 20}
    assert result["class_share"][0][0] > 0.99
    # the adjustment takes out what chance gives to three classes, 2 / 59, up to its spread
    assert abs(result["class_share"][1][0]) < 0.15
    assert result["class_share"][0][1:] == [None] * 7
    assert [result["class_mean"][name][0][0] for name in ("red", "green", "blue")] == pytest.approx([0, 1, 2], abs=0.01)
    assert (result["shown"][0]["branch"], result["shown"][0]["entry"]) == (0, "pre 0")
    medians = [result["shown"][0]["percentiles"][name][2] for name in ("red", "green", "blue")]
    assert medians == pytest.approx([0, 1, 2], abs=0.02)


def test_one_image_a_class_explains_nothing():
    distribution = CoefficientDistribution()
    distribution.add([maps_of_images(torch.randn(4))], torch.arange(4))
    result = distribution.result(["a", "b"])
    assert result["class_share"] == [[None] * 8]
    assert result["shown"] == []
    assert list(result["num_images"]) == ["a", "b", "2", "3"]


def test_static_maps_have_no_distribution():
    distribution = CoefficientDistribution()
    distribution.add([Coefficients(torch.ones(2), torch.ones(2), torch.eye(2))], torch.tensor([0, 1]))
    assert distribution.result(["a", "b"]) is None


def test_mhc_has_gain_one_forward_whatever_its_maps_are():
    model = timm.create_model("test_vit_mhc", img_size=32, num_streams=4).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".connection" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    record = measure_model(model, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))] * 2, ["a", "b"])
    assert record["num_images"] == 4
    # rows are normalised last: 12 products of fp32 maps
    assert record["gains"]["composite_forward"] == pytest.approx([1] * 12, abs=1e-5)
    ranks = [entry["median"] for entry in record["streams"]["effective_rank"]]
    assert ranks[0] == pytest.approx(1, abs=1e-5)
    assert ranks[-1] > 1.05


def test_batches_change_nothing():
    model = timm.create_model("test_vit_mhc", img_size=32, depth=2).eval()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    few, at_once = (
        measure_model(model, zip(images.split(size), labels.split(size), strict=True), "ab") for size in (3, 8)
    )
    for key in ("gains", "maps", "streams"):
        # fp32 matrix products of other shapes
        torch.testing.assert_close(flat(few[key]), flat(at_once[key]), rtol=1e-4, atol=1e-5)


def flat(value: object) -> torch.Tensor:
    """All numbers in nested lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return torch.cat([flat(entry) for entry in value])
    return torch.tensor([float(value)])


def test_a_model_in_training_mode_and_no_images_are_refused():
    model = timm.create_model("test_vit", img_size=32)
    with pytest.raises(ValueError, match="eval mode"):
        measure_model(model.train(), [], [])
    with pytest.raises(ValueError, match="no images"):
        measure_model(model.eval(), [], [])


@pytest.mark.parametrize("name", ["test_vit", "test_vit_dhc", "test_vit_mhc"])
def test_a_model_that_has_diverged_is_refused(name):
    model = timm.create_model(name, depth=2, img_size=32).eval()
    nn.init.constant_(model.blocks[1].attn.proj.weight, float("nan"))
    with pytest.raises(ValueError, match=r"NaN or infinity before branch 3 \(blocks\.1\.connection2\)"):
        measure_model(model, [(torch.randn(1, 3, 32, 32), torch.tensor([0]))], ["a"])


def test_a_model_without_residual_additions_to_replace_is_named():
    with pytest.raises(ValueError, match="got ResNet, expected one of timm's VisionTransformer"):
        measure_model(timm.create_model("resnet18").eval(), [], [])


def test_travel_by_hand():
    start = Coefficients(torch.tensor([1.0, 0.0]), torch.ones(2), torch.eye(2))
    travel = MapTravel({0: start, 1: start})
    # two batches of one token each, of which the changes of pre have different signs
    for sign in (1.0, -1.0):
        travel.add(0, Coefficients(start.pre + 0.2 * sign, start.post, start.res + torch.tensor([[0.4, 0], [0, 0]])))
        travel.add(1, start)
    result = travel.result()
    assert result["pre"] == pytest.approx([0.2, 0.0])
    assert result["post"] == [0.0, 0.0]
    # one of four entries
    assert result["res"] == pytest.approx([0.1, 0.0])
    assert result["mean"] == pytest.approx({"pre": 0.1, "post": 0.0, "res": 0.05})
    assert result["start"]["res"] == [[[1, 0], [0, 1]]] * 2


def _verdicts(model):
    record = measure_model(model, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))], ["a", "b"])
    return {row["measure"]: row["verdict"] for row in summary_rows(record)}


def test_connections_at_their_start_have_hardly_moved_and_moved_ones_have():
    change = "largest mean change of a kind of map since the start"
    for name in ("test_vit_shc", "test_vit_dhc", "test_vit_mhc"):
        verdicts = _verdicts(timm.create_model(name, depth=2, img_size=32).eval())
        assert verdicts[change] == "connections have hardly moved (below 0.01)"
        assert verdicts["weight of the input embedding in the output"] == "as plain"
        assert verdicts["effective rank of the streams at the read-out, median"] == "streams are copies"
    model = timm.create_model("test_vit_shc", depth=2, img_size=32).eval()
    with torch.no_grad():
        model.blocks[0].connection1.res.mul_(3)
    verdicts = _verdicts(model)
    assert verdicts[change] == "connections have moved"
    assert verdicts["mean change of res"] == "have moved"
    assert verdicts["mean change of pre"] == "have hardly moved (below 0.01)"
    assert verdicts["largest Amax gain of a branch, forward"] == "amplifies"
    assert verdicts["largest |log column sum| of a branch"] == "columns do not sum to 1"


def test_a_plain_model_has_nothing_that_could_move():
    verdicts = _verdicts(timm.create_model("test_vit", depth=2, img_size=32).eval())
    assert not any("change" in measure for measure in verdicts)
    assert verdicts["largest composite Amax gain, backward"] == "as plain"


def test_colours_are_symmetric_about_the_start_and_hide_rounding():
    scale = change_scale(torch.tensor([[0.3, -0.1]]).numpy())
    assert (scale["vmin"], scale["vmax"]) == pytest.approx((-0.3, 0.3))
    scale = change_scale(torch.tensor([[1.0, 1.0 + 1e-6]]).numpy(), centre=1.0)
    assert (scale["vmin"], scale["vmax"]) == pytest.approx((0.99, 1.01))


def contributing_model(moved: float = 0.3) -> nn.Module:
    model = timm.create_model("test_vit_mhc", depth=2, img_size=32, num_classes=5).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((moved if ".connection" in name else 0.1) * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_contribution_is_that_of_all_batches_and_leaves_the_model_alone(loss):
    model = contributing_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(torch.randn(count, 3, 32, 32), torch.randint(5, (count,))) for count in (3, 2)]
    record = measure_model(model, batches, list("abcde"), loss)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name

    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    plain = copy.deepcopy(model)
    for connection in named_connections(plain).values():
        connection.reset_parameters()
    with torch.no_grad():
        differences = image_losses(loss, plain(images), labels) - image_losses(loss, model(images), labels)
    # fp32 losses
    assert record["contribution"]["value"] == pytest.approx(differences.mean().item(), abs=1e-6)
    assert record["contribution"]["standard_error"] == pytest.approx(differences.std().item() / 5**0.5, abs=1e-6)


def test_the_summary_says_what_contributes_what_is_remembered_and_what_dominates():
    def rows(model: nn.Module, loss: str | None) -> dict[str, dict[str, str]]:
        record = measure_model(model, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))], list("abcde"), loss)
        return {row["measure"]: row for row in summary_rows(record)}

    said = rows(contributing_model(moved=0.0), "ce")
    contribution = said["loss with the maps set back, minus loss"]
    assert contribution["verdict"].startswith("a plain model at a higher price")
    assert said["share of the dominant stream at the read-out"]["value"] == "25.0 %"
    memory = said["part of a difference between streams that survives the stack"]
    assert memory["verdict"] == f"remembers; {memory['value']} at the start"

    forgetful = contributing_model(moved=0.0)
    with torch.no_grad():
        # all logits of `res` alike: every stream becomes the mean
        for connection in named_connections(forgetful).values():
            connection.bias[8:] = 0
    said = rows(forgetful, None)
    assert "loss with the maps set back, minus loss" not in said
    assert said[memory["measure"]]["verdict"].startswith("forgets; ")


def test_a_plain_model_has_nothing_to_contribute():
    model = timm.create_model("test_vit", img_size=32, num_classes=5).eval()
    record = measure_model(model, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))], list("abcde"), "ce")
    assert record["contribution"] is None
    assert record["memory"] is None
