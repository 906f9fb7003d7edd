"""Models with maps that do not learn: the same function at the start, and everything that full connections can do."""

import json

import pytest
import timm
import torch
from families import EVA, VIT
from timm.models import create_feature_extractor, get_graph_node_names, save_for_hf
from torch import Tensor, nn

import mhc_vision
from mhc_vision.layers import connection_parameters, named_connections, record_coefficients

# fp32 rounding of outputs of order one, added up in another order
ROUNDING = {"rtol": 0, "atol": 1e-5}
FROZEN_WIDTH = {"learn_pre": False, "learn_res": False}
CASES = [
    ("shc", FROZEN_WIDTH),
    ("dhc", FROZEN_WIDTH),
    ("dhc", {"learn_post": False}),
    ("mhc", {"learn_pre": False}),
    ("mhc", {"learn_post": False}),
    ("mhc", {"learn_res": False, "learn_post": False}),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def case(request) -> tuple[str, dict[str, bool]]:
    return request.param


def images(batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 3, 16, 16)


@pytest.mark.parametrize("family", [VIT, EVA], ids=["ViT", "Eva"])
def test_same_function_at_the_start(family, case, trained_like):
    plain, x = trained_like(family.plain()).eval(), images()
    hyper = mhc_vision.hyperconnect(plain, case[0], **case[1])
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), **ROUNDING)
    assert mhc_vision.collapse(hyper).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
def test_graphs_and_scripts_compute_the_same(case, trained_like):
    model = VIT.connected(case[0], dynamic_img_size=False, depth=1, **case[1])
    model, x = trained_like(model).eval(), images()
    _, nodes = get_graph_node_names(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), **ROUNDING)
        graph = create_feature_extractor(model, [nodes[-1]])
        # as graphs do, checkpointing takes one block after the other
        model.set_grad_checkpointing()
        assert torch.equal(graph(x)[nodes[-1]], model(x))


def test_compiles_in_one_graph_and_exports_with_a_dynamic_batch(case, trained_like):
    model = VIT.connected(case[0], dynamic_img_size=False, depth=1, **case[1])
    model, x = trained_like(model).eval(), images()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), **ROUNDING)
        x = images(5)
        torch.testing.assert_close(exported.module()(x), model(x), **ROUNDING)


def test_recorded_maps_without_a_change_of_the_output(case, trained_like):
    model, x = trained_like(VIT.connected(case[0], **case[1])).eval(), images()
    with torch.no_grad():
        expected = model(x)
        with record_coefficients(model) as records:
            torch.testing.assert_close(model(x), expected, **ROUNDING)
    assert len(records) == 4


def test_switches_travel_with_the_model(case, trained_like, tmp_path):
    model = trained_like(VIT.connected(case[0], **case[1])).eval()
    save_for_hf(model, str(tmp_path))
    arguments = json.loads((tmp_path / "config.json").read_text())["model_args"]
    assert {name: arguments[name] for name in case[1]} == case[1]
    loaded, x = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), images()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("connection", "options", "message"),
    [
        ("shc", FROZEN_WIDTH, "shc with num_streams=4, learned: post, .* expected shc with num_streams=4, stream"),
        ("dhc", {"learn_post": False}, "dhc with num_streams=4, learned: pre and res"),
        ("mhc", {"learn_pre": False}, "mhc with num_streams=4 and 20 logits of 2 maps.* and 24 logits of 3 maps"),
    ],
)
def test_weights_of_other_switches_are_refused(connection, options, message):
    with pytest.raises(ValueError, match=message):
        VIT.connected(connection).load_state_dict(VIT.connected(connection, **options).state_dict())


def test_static_maps_that_are_left_get_no_weight_decay(case):
    model = VIT.connected(case[0], **case[1])
    undecayed = model.no_weight_decay()
    assert all((name in undecayed) != name.endswith(".weight") for name, _ in connection_parameters(model))


def test_mhc_that_always_writes_one_is_a_plain_model(trained_like):
    """Equal streams stay equal where post = 1 and the rows of res sum to one, however pre and res have moved."""
    plain, x = trained_like(VIT.plain()).eval(), images()
    hyper = mhc_vision.hyperconnect(plain, "mhc", learn_post=False)
    with torch.no_grad():
        for connection in named_connections(hyper).values():
            trained_like(connection, 0.5)
        # what pre adds up to is taken out by the LayerNorm, up to its eps
        torch.testing.assert_close(hyper(x), plain(x), rtol=0, atol=1e-3)
        hyper = mhc_vision.hyperconnect(plain, "mhc")
        for connection in named_connections(hyper).values():
            trained_like(connection, 0.5)
        assert not torch.allclose(hyper(x), plain(x), atol=0.1)


@pytest.mark.parametrize(("pre_init", "differ"), [(None, False), (0.7, True)])
def test_mhc_that_always_reads_the_mean_never_tells_its_streams_apart(pre_init, differ):
    model = VIT.connected("mhc", learn_pre=False, pre_init=pre_init).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, labels = images(8).double(), torch.arange(8)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    seen: list[Tensor] = []
    model.blocks[1].reduction.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    spread = (seen[0] - seen[0].mean(-2, keepdim=True)).abs().max().item()
    # fp64: streams that are treated alike differ by rounding, those that are told apart by what three steps make
    assert spread > 1e-4 if differ else spread < 1e-10
