"""X' has the same bits in every kernel that makes it: read from PTX, for a GPU that need not be there."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from ptx_numbers import Term, Terms
from symbolic_ptx import Argument, Run, execute

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"
MERGE, REPLAY, BACKWARD = "boundary, scaled", "boundary, replay", "boundary backward, streams, scaled"
# one tile of tokens of two samples, and one chunk of channels
N, TOKENS, DIM = 4, 16, 32
NUMBERS = {"num_tokens": TOKENS, "dim": DIM, "tokens_per_sample": 8, "num_logits": N * N + 2 * N, "num_iters": 1}
STRIDES = {"x_token_stride": N * DIM, "x_stream_stride": DIM, "res_stride": 1, "post_stride": 1, "entry_stride": TOKENS}


@pytest.fixture(scope="module")
def bf16(tmp_path_factory) -> Path:
    """Directory with the code of the kernels for streams in bf16."""
    return compiled(tmp_path_factory, "bf16", MERGE, REPLAY, BACKWARD)


def compiled(directories: pytest.TempPathFactory, dtype: str, *kernels: str) -> Path:
    directory = directories.mktemp("code")
    options = ["--num-streams", str(N), "--dtype", dtype, "--targets", "sm_90", "--code", str(directory)]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *options, "--kernels", *kernels]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def run(directory: Path, kernel: str, terms: Terms, numbers: Mapping[str, int], maps_of: Run | None = None) -> Run:
    """One program of a kernel; it finds the maps in memory that another one has stored, post before res."""
    (file,) = directory.glob(f"{kernel.replace(', ', '-').replace(' ', '_')}-{N}-*.ptx")
    ptx = file.read_text()
    signature = json.loads(ptx.splitlines()[0].removeprefix("//"))
    stored = {} if maps_of is None else maps_of.stores
    maps = {place: value for place, value in stored.items() if place[0] == "maps_ptr"}
    maps |= {("post_ptr", at): value for (_, at), value in maps.items()}
    maps |= {("res_ptr", at - 4 * N * TOKENS): value for (name, at), value in maps.items() if name == "maps_ptr"}
    return execute(ptx, [Argument(*item) for item in signature.items()], numbers, terms, maps)


def merged(made: Run) -> dict[int, Term]:
    """What a kernel wrote to X', by byte."""
    return {at: term for (name, at), term in made.stores.items() if name == "out_ptr"}


def check_merge_replay_and_backward(directory: Path) -> dict[int, Term]:
    terms, numbers = Terms(), {**NUMBERS, **STRIDES}
    made = run(directory, MERGE, terms, numbers)
    expected = merged(made)
    assert len({term.number for term in expected.values()}) == len(expected) == TOKENS * N * DIM
    assert merged(run(directory, REPLAY, terms, numbers, made)) == expected
    assert {term.number for term in expected.values()} <= run(directory, BACKWARD, terms, numbers, made).made
    return expected


def test_merge_replay_and_backward_make_the_same_expressions(bf16):
    term = check_merge_replay_and_backward(bf16)[0]
    # rounded once, after a product with F and one fma for each stream
    assert term.op == "cvt.rn.bf16.f32"
    (term,) = term.args
    for _ in range(N):
        assert term.op == "fma.rn.f32"
        term = term.args[2]
    assert term.op == "mul.f32"


@pytest.mark.slow
def test_fp32(tmp_path_factory):
    check_merge_replay_and_backward(compiled(tmp_path_factory, "fp32", MERGE, REPLAY, BACKWARD))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("merge", "case", "strides"),
    [("boundary", "entry", {"x_token_stride": DIM, "x_stream_stride": 0}), ("boundary, identity", "identity", STRIDES)],
    ids=["equal streams", "identity"],
)
def test_cases_of_merge_and_backward(tmp_path_factory, merge, case, strides):
    terms, numbers, backward = Terms(), {**NUMBERS, **strides}, f"boundary backward, streams, {case}"
    directory = compiled(tmp_path_factory, "bf16", merge, backward)
    made = run(directory, merge, terms, numbers)
    assert {term.number for term in merged(made).values()} <= run(directory, backward, terms, numbers, made).made


ADD = """
.visible .entry add(.param .u64 add_param_0, .param .u64 add_param_1, .param .u32 add_param_2) .reqntid 32
{
	mov.u32 	%r1, %tid.x;
	ld.param.b64 	%rd1, [add_param_0];
	ld.param.b64 	%rd2, [add_param_1];
	ld.param.b32 	%r2, [add_param_2];
	mul.wide.u32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;
	ld.global.b32 	%r3, [%rd4];
	shfl.sync.bfly.b32 	%r4, %r3, 1, 31, -1;
	add.f32 	%r5, ORDER;
	mov.b32 	%r6, 0;
$L_loop:
	add.s32 	%r6, %r6, 1;
	mul.f32 	%r5, %r5, %r5;
	setp.lt.s32 	%p1, %r6, %r2;
	@%p1 bra 	$L_loop;
	add.s64 	%rd5, %rd2, %rd3;
	st.global.b32 	[%rd5], %r5;
	ret;
}
"""


@pytest.mark.parametrize(("orders", "equal"), [(("%r3, %r4", "%r4, %r3"), True), (("%r3, %r4", "%r3, %r3"), False)])
def test_expressions_differ_by_more_than_the_order_of_summands(orders, equal):
    arguments = [Argument("x", "*fp32"), Argument("y", "*fp32"), Argument("count", "i32")]
    terms = Terms()
    first, second = (execute(ADD.replace("ORDER", order), arguments, {"count": 2}, terms).stores for order in orders)
    assert (first == second) is equal
    x0, x1 = (terms.make("load", "x", at) for at in (0, 4))
    total = terms.make("add.f32", x0, x1)
    squared = terms.make("mul.f32", total, total)
    assert first["y", 0] is terms.make("mul.f32", squared, squared)
