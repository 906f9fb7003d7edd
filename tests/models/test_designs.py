"""Other residual designs: each against its paper's formula written out, and in everyday use."""

import itertools

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import Tensor, nn

from mhc_vision.layers import connection_parameters, initial_coefficients, record_coefficients
from mhc_vision.models.designs import DESIGNS, apply_design, create_with_design
from mhc_vision.models.instruments.costs import count_parameters
from mhc_vision.models.lora import LoraOptions, add_adapters

SMALL = {"img_size": 16, "patch_size": 4, "depth": 3, "num_classes": 10}
POOLED = {"class_token": False, "global_pool": "avg"}
LAYER_SCALE = {"init_values": 0.5}
# fp64 sums of order one in another order
EXACT = {"rtol": 0, "atol": 1e-10}


def images(batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 3, 16, 16, dtype=torch.float64)


def embedded(model: nn.Module, x: Tensor) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(x)))


def branches(model: nn.Module):
    """(norm, F) of every attention and MLP in turn, F being the branch without the norm."""
    for block in model.blocks:
        yield block.norm1, lambda x, block=block: block.drop_path1(block.ls1(block.attn(x)))
        yield block.norm2, lambda x, block=block: block.drop_path2(block.ls2(block.mlp(x)))


def post_norm(model: nn.Module, x: Tensor) -> Tensor:
    """x' = norm(x + F(x)) (Vaswani et al., 2017, Sec. 3.1)."""
    for norm, branch in branches(model):
        x = norm(x + branch(x))
    return x


def parallel(model: nn.Module, x: Tensor) -> Tensor:
    """y = LayerNorm(x), x' = x + MLP(y) + Attention(y) (Dehghani et al., 2023, Sec. 2)."""
    for block in model.blocks:
        hidden, q, k, v = block.in_proj(block.in_norm(x)).split(block.in_split, -1)
        q, k, v = (part.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        attended = (q @ k.mT / block.head_dim**0.5).softmax(-1) @ v
        attention = block.attn_out_proj(attended.transpose(1, 2).flatten(-2))
        x = x + block.drop_path(block.ls(block.mlp_out_proj(nn.functional.gelu(hidden)) + attention))
    return model.norm(x)


def resi_dual(model: nn.Module, x: Tensor) -> Tensor:
    """x' = LN(x + f(x)), d' = d + f(x), y = x_N + LN(d_N) (Xie et al., 2023, Sec. 2.3)."""
    dual = x
    for norm, branch in branches(model):
        output = branch(x)
        x, dual = norm(x + output), dual + output
    norm = model.norm
    return x + nn.functional.layer_norm(dual, dual.shape[-1:], norm.weight, norm.bias, norm.eps)


def alt_up(model: nn.Module, x: Tensor) -> Tensor:
    """Predict, compute, correct (Baykal et al., 2023, Alg. 1), stream by stream; read out by the mean."""
    num_streams = model.num_streams
    streams = [x] * num_streams
    for layer, block in enumerate(model.blocks):
        p, g = block.connection.predict, block.connection.correct
        chosen = layer % num_streams
        predicted = [sum(p[i, j] * streams[j] for j in range(num_streams)) for i in range(num_streams)]
        computed = streams[chosen]
        computed = computed + block.drop_path1(block.ls1(block.attn(block.norm1(computed))))
        computed = computed + block.drop_path2(block.ls2(block.mlp(block.norm2(computed))))
        streams = [predicted[i] + g[i] * (computed - predicted[chosen]) for i in range(num_streams)]
    return model.norm(sum(streams) / num_streams)


def mudd_sums(aggregate: nn.Module, outputs: list[Tensor]) -> list[Tensor]:
    """A = GELU(RMSNorm(X_i) W1) W2 + a and the weighted sums (Xiao et al., 2025, Eq. 4-6), token by token."""
    w1, w2, a = aggregate.hidden.weight.T, aggregate.dynamic.weight.T, aggregate.static
    sums = [torch.empty_like(outputs[0]) for _ in a]
    for token in itertools.product(*map(range, outputs[0].shape[:2])):
        x = outputs[-1][token]
        weights = nn.functional.gelu(x / (x.square().mean() + 1e-6).sqrt() @ w1) @ w2
        for way, total in enumerate(sums):
            dynamic = weights[way * len(outputs) : (way + 1) * len(outputs)]
            total[token] = sum((a[way, j] + dynamic[j]) * outputs[j][token] for j in range(len(outputs)))
    return sums


def attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """MHA(q, k, v) with timm's parameters; q and k do not have norms here."""
    parts = zip((q, k, v), module.qkv.weight.chunk(3), module.qkv.bias.chunk(3), strict=True)
    q, k, v = (nn.functional.linear(*part).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts)
    attended = (q @ k.mT / module.head_dim**0.5).softmax(-1) @ v
    return module.proj(attended.transpose(1, 2).flatten(-2))


def mudd(model: nn.Module, x: Tensor) -> Tensor:
    """X_i = B'_i(X^Q, X^K, X^V, X^R), read out as X^R (Xiao et al., 2025, Eq. 7-8)."""
    outputs = [x]
    q = k = v = r = x
    for block in model.blocks:
        if len(outputs) > 1:
            q, k, v, r = mudd_sums(block.aggregate, outputs)
        r = r + block.drop_path1(block.ls1(attention(block.attn, *map(block.norm1, (q, k, v)))))
        outputs.append(r + block.drop_path2(block.ls2(block.mlp(block.norm2(r)))))
    (x,) = mudd_sums(model.blocks[-1].read_out, outputs)
    return model.norm(x)


def depth_attention(query: Tensor, scale: Tensor, sources: list[Tensor]) -> Tensor:
    """Sum of v_i times softmax(w · RMSNorm(v_i)) over i (Kimi Team, 2026, Eq. 2-4), token by token."""
    read = torch.empty_like(sources[0])
    for token in itertools.product(*map(range, sources[0].shape[:2])):
        values = [source[token] for source in sources]
        exps = [torch.exp(query @ (v / (v.square().mean() + 1e-6).sqrt() * scale)) for v in values]
        read[token] = sum(e / sum(exps) * v for e, v in zip(exps, values, strict=True))
    return read


def attn_res(model: nn.Module, x: Tensor) -> Tensor:
    """v_0 is the embedding, v_l = f_l(h_l), and h_l attends to v_0, ..., v_{l-1} (Kimi Team, 2026, Sec. 3.1)."""
    sources = [x]
    readers = [
        reader
        for block in model.blocks
        for reader in zip(block.depth_attention.queries, block.depth_attention.key_scales, strict=True)
    ]
    for index, (norm, branch) in enumerate(branches(model)):
        # over one source there is nothing to choose
        read = x if index == 0 else depth_attention(*readers[index - 1], sources)
        sources.append(branch(norm(read)))
    return model.norm(depth_attention(*readers[-1], sources))


FORMULAS = {
    "post_norm": post_norm,
    "parallel": parallel,
    "resi_dual": resi_dual,
    "alt_up": alt_up,
    "mudd": mudd,
    "attn_res": attn_res,
}
# which a first step leaves where they are, as what they are multiplied with starts at zero
STILL_AT_FIRST = {"mudd": "hidden.weight", "attn_res": "key_scales"}


@pytest.mark.parametrize("options", [{}, LAYER_SCALE, POOLED], ids=["token", "LayerScale", "pooled"])
@pytest.mark.parametrize("design", DESIGNS)
def test_features_are_those_of_the_papers_formula(design, options, trained_like):
    model = trained_like(create_with_design("test_vit", design, 2, **SMALL, **options).double()).eval()
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), FORMULAS[design](model, embedded(model, x)), **EXACT)
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize("options", [{}, LAYER_SCALE, POOLED], ids=["token", "LayerScale", "pooled"])
@pytest.mark.parametrize("design", DESIGNS)
def test_every_parameter_gets_a_gradient(design, options, trained_like):
    model = create_with_design("test_vit", design, **SMALL, **options).double()
    nn.functional.cross_entropy(model(images(8)), torch.arange(8)).backward()
    for name, parameter in model.named_parameters():
        still = design in STILL_AT_FIRST and name.endswith(STILL_AT_FIRST[design])
        assert (parameter.grad.abs().sum() == 0) == still, name
    model.zero_grad()
    nn.functional.cross_entropy(trained_like(model)(images(8)), torch.arange(8)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


NEW = {
    # K² + K a layer
    "alt_up": 3 * (2 * 2 + 2),
    # C K + K W + W with K = 4 outputs, and W = K for four ways or W = outputs for one
    "mudd": sum(64 * 4 * n + 4 * n * ways * n + ways * n for n, ways in ((2, 4), (3, 4), (4, 1))),
    # query and scale of two readers a block: the first attention reads one source, and the model reads out
    "attn_res": 3 * 2 * 2 * 64,
}


@pytest.mark.parametrize("design", DESIGNS)
def test_parameters_are_those_of_the_plain_model(design):
    plain = {name: tuple(value.shape) for name, value in timm.create_model("test_vit", **SMALL).named_parameters()}
    model = create_with_design("test_vit", design, 2, **SMALL)
    ours = {name: tuple(value.shape) for name, value in model.named_parameters()}
    added = {name for name, _ in connection_parameters(model)}
    if design == "parallel":
        assert type(model) is timm.models.VisionTransformer
        assert {type(block) for block in model.blocks} == {ParallelScalingBlock}
    elif design == "post_norm":
        assert ours == {name: shape for name, shape in plain.items() if not name.startswith("norm.")}
    elif design == "resi_dual":
        assert ours == plain
    else:
        assert sum(value.numel() for _, value in connection_parameters(model)) == NEW[design]
        assert ours == plain | {name: ours[name] for name in added}
    assert bool(added) == (design in NEW)
    decayed = added - model.no_weight_decay() if added else set()
    assert decayed == {name for name in added if name.endswith(".weight")}
    assert getattr(model, "num_streams", 1) == (2 if design in ("resi_dual", "alt_up") else 1)


@pytest.mark.parametrize("design", DESIGNS)
def test_training_drops_branches(design, trained_like):
    model = trained_like(create_with_design("test_vit", design, **SMALL, drop_path_rate=0.7).double()).train()
    x, seed = images(8), 1
    with torch.no_grad():
        torch.manual_seed(seed)
        features = model.forward_features(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(features, FORMULAS[design](model, embedded(model, x)), **EXACT)
        assert not torch.allclose(features, model.eval().forward_features(x), atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"qkv_bias": False}], ids=["bias", "qk_norm", "no bias"])
@pytest.mark.parametrize("design", ["alt_up", "mudd"])
def test_some_designs_start_as_the_plain_model(design, options, trained_like):
    plain, x = trained_like(timm.create_model("test_vit", **SMALL, **options).double()).eval(), images()
    expected = plain(x)
    torch.testing.assert_close(apply_design(plain, design, 3)(x), expected, **EXACT)


def test_alt_up_starts_with_one_computed_stream_and_a_plain_residual():
    model = create_with_design("test_vit", "alt_up", 3, **SMALL).double()
    for block in model.blocks:
        pre, post, res = initial_coefficients(block.connection)
        assert torch.equal(post, torch.ones(3, dtype=torch.float64))
        assert torch.equal(res, torch.eye(3, dtype=torch.float64))
        assert pre.sum() == 1


def test_alt_up_is_recorded_as_a_static_connection_around_each_block():
    model = create_with_design("test_vit", "alt_up", 2, **SMALL).double().eval()
    with torch.no_grad(), record_coefficients(model) as records:
        model(images())
    assert list(records) == [f"blocks.{index}.connection" for index in range(3)]
    assert [maps.pre.argmax().item() for maps in records.values()] == [0, 1, 0]


@pytest.mark.parametrize("design", ["post_norm", "resi_dual", "alt_up", "mudd", "attn_res"])
def test_masks_reach_attention(design, trained_like):
    model = trained_like(create_with_design("test_vit", design, **SMALL).double()).eval()
    x, mask = images(), torch.ones(17, 17, dtype=torch.bool).tril()
    with torch.no_grad():
        torch.testing.assert_close(model(x, attn_mask=mask), model(x, is_causal=True), **EXACT)
        assert not torch.allclose(model(x, attn_mask=mask), model(x), atol=1e-3)


@pytest.mark.parametrize("design", DESIGNS)
def test_checkpointed_gradients_and_a_compiled_graph(design):
    model, x = create_with_design("test_vit", design, **SMALL).double(), images()
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    model.set_grad_checkpointing()
    actual = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(actual, expected, **EXACT)
    model.set_grad_checkpointing(False)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), **EXACT)


@pytest.mark.parametrize("design", DESIGNS)
def test_features_of_single_blocks_or_a_message(design):
    model = create_with_design("test_vit", design, **SMALL).double()
    if getattr(model, "num_streams", 1) == 1 and not getattr(model, "keeps_history", False):
        assert [tuple(tap.shape) for tap in model.forward_intermediates(images(), intermediates_only=True)] == [
            (2, 64, 4, 4)
        ] * 3
    else:
        between = "all outputs so far" if model.keeps_history else "streams"
        with pytest.raises(NotImplementedError, match=f"{between} between blocks"):
            model.forward_intermediates(images())
        with pytest.raises(NotImplementedError, match=f"{between} between blocks"):
            model.prune_intermediate_layers(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"design": "pre_norm"},
            "design: got 'pre_norm', expected one of post_norm, parallel, resi_dual, alt_up, mudd, attn_res",
        ),
        (
            {"design": "post_norm", "pretrained": True},
            "pretrained: got True, expected False; post_norm is another function",
        ),
        ({"design": "parallel", "block_fn": ResPostBlock}, "block_fn: got .*ResPostBlock"),
        ({"design": "resi_dual", "block_fn": ResPostBlock}, "blocks: got ResPostBlock, expected"),
        ({"design": "resi_dual", "final_norm": False}, "norm: got Identity, expected a final LayerNorm"),
        ({"design": "alt_up", "num_streams": 9}, "num_streams: got 9"),
        ({"design": "mudd", "attn_layer": "diff"}, "attn: got DiffAttention, expected timm's Attention"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_with_design("test_vit", **arguments, **SMALL)


@pytest.mark.parametrize("design", ["post_norm", "resi_dual", "alt_up", "mudd", "attn_res"])
def test_other_models_are_refused(design):
    with pytest.raises(ValueError, match="model: got Eva, expected timm's VisionTransformer itself"):
        create_with_design("vit_small_patch16_dinov3", design, depth=1)


def test_parallel_needs_a_model_whose_blocks_can_be_chosen():
    with pytest.raises(ValueError, match="model: got Eva, expected timm's VisionTransformer for parallel"):
        create_with_design("vit_small_patch16_dinov3", "parallel", depth=1)


def test_attention_residuals_start_with_means():
    model, x = create_with_design("test_vit", "attn_res", **SMALL).double().eval(), images()
    with torch.no_grad():
        sources = [embedded(model, x)]
        for norm, branch in branches(model):
            sources.append(branch(norm(sum(sources) / len(sources))))
        expected = model.norm(sum(sources) / len(sources))
        torch.testing.assert_close(model.forward_features(x), expected, **EXACT)


def test_attention_residuals_do_not_overflow():
    """Logits of large queries: the largest takes all, whatever was read before it."""
    model = create_with_design("test_vit", "attn_res", **SMALL).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.depth_attention.queries.normal_(std=1e4)
        assert model(images()).isfinite().all()


def test_mudd_costs_what_the_paper_says():
    """Of ViT-S/16: parameters x 1.007 (App. F, Table 9)."""
    with torch.device("meta"):
        model = create_with_design("vit_small_patch16_224", "mudd")
    assert round(1 + count_parameters(model)["extra_percent"] / 100, 3) == 1.007


@pytest.mark.parametrize("design", ["mudd", "attn_res"])
def test_a_start_comes_back(design, trained_like):
    model = create_with_design("test_vit", design, **SMALL)
    at_start = model.state_dict()
    start = {name: at_start[name].clone() for name, _ in connection_parameters(model)}
    trained_like(model).init_weights()
    for name, parameter in connection_parameters(model):
        # drawn anew
        if not name.endswith("hidden.weight"):
            assert torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("design", ["mudd", "attn_res"])
def test_reentrant_checkpoints_would_lose_gradients_of_a_history(design):
    model = create_with_design("test_vit", design, **SMALL)
    timm.layers.set_reentrant_ckpt(True)
    try:
        with pytest.raises(ValueError, match="grad_checkpointing: got timm's re-entrant checkpoints"):
            model.set_grad_checkpointing()
    finally:
        timm.layers.set_reentrant_ckpt(False)
    model.set_grad_checkpointing()


def test_adapters_do_not_reach_the_inputs_of_mudd():
    with pytest.raises(ValueError, match=r"lora_targets: got blocks\.1\.attn\.qkv, which has an input each"):
        add_adapters(create_with_design("test_vit", "mudd", **SMALL), LoraOptions())


@pytest.mark.parametrize("design", ["mudd", "attn_res"])
def test_coefficients_stay_precise_under_autocast(design, trained_like):
    model, x = trained_like(create_with_design("test_vit", design, **SMALL)).eval(), images().float()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert model.forward_features(x).dtype == torch.float32
            # branches are rounded to 8 bits
            torch.testing.assert_close(model(x).float(), expected, rtol=0, atol=0.05)
        narrow = create_with_design("test_vit", design, **SMALL, dtype=torch.bfloat16)
        assert {value.dtype for name, value in connection_parameters(narrow)} == {torch.float32}
        assert narrow(x.bfloat16()).dtype == torch.bfloat16
