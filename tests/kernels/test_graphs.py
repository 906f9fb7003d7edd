"""What graphs and scripts see of the ops."""

from pathlib import Path

import pytest
import torch

import mhc_vision
from mhc_vision import kernels
from mhc_vision.kernels.custom_ops import boundary, branch_input, merge, sinkhorn  # noqa: F401

N, DIM, K = 4, 8, 24
STREAMS, TOKENS, RES, MAP = (
    torch.randn(2, 3, N, DIM),
    torch.randn(2, 3, DIM),
    torch.rand(2, 3, N, N),
    torch.rand(2, 3, N),
)
PARAMETERS = torch.randn(K, N * DIM), torch.randn(K), torch.randn(K)
CALLS = {
    "add_output": (STREAMS, TOKENS, MAP),
    "branch_input": (STREAMS, *PARAMETERS),
    "combine_matrices": (MAP, torch.randn(N, 9)),
    "merge_and_read": (STREAMS, TOKENS, RES, MAP, 0.25),
    "merge_streams": (STREAMS, TOKENS, RES, MAP),
    "project_streams": (STREAMS, torch.randn(DIM), torch.randn(DIM), torch.randn(5, DIM)),
    "read_streams": (STREAMS, MAP),
    "sinkhorn_knopp": (RES,),
    "stream_coefficients": (STREAMS, PARAMETERS[0], torch.randn(3), PARAMETERS[2]),
    "stream_logits": (STREAMS, *PARAMETERS),
}


@pytest.mark.parametrize("name", CALLS)
def test_fx_records_one_call(name):
    given = CALLS[name]
    graph = torch.fx.symbolic_trace(lambda streams: getattr(kernels, name)(streams, *given[1:]))
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == [getattr(kernels, name)]
    torch.testing.assert_close(graph(given[0]), getattr(kernels, name)(*given))


# `merge_and_read` is of the fused path, which TorchScript does not see
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", [name for name in CALLS if name != "merge_and_read"])
def test_torchscript_runs_the_formula(name):
    op = getattr(kernels, name)
    torch.testing.assert_close(torch.jit.script(op)(*CALLS[name]), op(*CALLS[name]))


def test_names_of_the_custom_ops():
    """Graphs that were made before refer to them."""
    names = ("merge", "branch_input", "sinkhorn_maps", "sinkhorn_knopp", "boundary")
    for name in (*names, *(f"{name}_backward" for name in names)):
        assert getattr(torch.ops.mhc_vision, name).default
    assert torch.ops.mhc_vision.boundary_replay.default


def files_with(text: str) -> set[str]:
    package = Path(mhc_vision.__file__).parent
    return {str(path.relative_to(package)) for path in package.rglob("*.py") if text in path.read_text()}


def test_what_graphs_and_scripts_ask_of_the_code_stays_in_few_files():
    assert files_with("fx.wrap(") == {"kernels/__init__.py"}
    # where it is chosen what runs: with observers or without, fused or block by block, streams of which dtype
    modules = {path for path in files_with("is_scripting()") if not path.startswith("kernels/")}
    of_dtype = {"layers/streams.py", "layers/blocks/stream_block.py"}
    # timm's Eva has the loop over its blocks in the model
    assert modules == {"layers/connection.py", "layers/blocks/stack.py", "models/eva_mhc.py", *of_dtype}
