"""Counts in machine code: how the reader takes them, and the limits that the boundary's kernels keep."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# a loop in a loop, an early exit, a call of a function behind the end, padding
SASS = """
.text.kernel:
	//## File "/elsewhere/package/kernel.py", line 1
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/               @P0 EXIT ;
        /*0020*/              @!P3 CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
.L_x_1:
	//## File "/elsewhere/package/kernel.py", line 3
        /*0030*/                   LDG.E.128 R4, [R2.64] ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_0:
	//## File "/elsewhere/package/kernel.py", line 5
        /*0050*/                   F2F.BF16.F32 R5, R4 ;
        /*0060*/                   F2FP.BF16.F32.PACK_AB R6, R4, R5 ;
	//## File "/elsewhere/package/kernel.py", line 4
        /*0070*/               @P1 BRA `(.L_x_0) ;
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
	//## File "/elsewhere/package/kernel.py", line 2
        /*0090*/              @!P2 BRA `(.L_x_1) ;
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00b0*/                   STL [R1], R6 ;
        /*00c0*/                   EXIT ;
        .weak           $__internal_0_$__cuda_sm20_div_s64
$__internal_0_$__cuda_sm20_div_s64:
        /*00d0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00e0*/                   RET.REL.NODEC R2 `(kernel) ;
.L_x_2:
        /*00f0*/                   BRA `(.L_x_2);
        /*0100*/                   NOP;
"""
SOURCE = """def kernel(dim, num_iters, BLOCK):
    for start in range(0, dim, BLOCK):
        load(start)
        for _ in range(num_iters):
            round_to_bf16()
"""
SIZES = {"dim": 96, "BLOCK": 32, "num_iters": 20, "num_programs": 5}


@pytest.fixture(scope="module")
def machine_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machine_code", BENCHMARKS / "machine_code.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path) -> Path:
    directory = tmp_path / "package"
    directory.mkdir()
    (directory / "kernel.py").write_text(SOURCE)
    return directory


def test_instructions_count_as_often_as_the_loops_around_them_run(machine_code, package):
    inner, outer = sorted((loop.body for loop in machine_code.find_loops(machine_code.parse(SASS))), key=len)
    assert inner == {5, 6, 7}
    assert outer == {3, 4, 5, 6, 7, 8, 9}
    counted = machine_code.count(SASS, SIZES, package, num_warps=4, num_tokens=10)
    # 6 outside, 4 in the outer loop alone, 3 in both; 5 programs of 4 warps over 10 tokens
    assert counted["instructions_per_token"] == (6 + 3 * 4 + 3 * 20 * 3) * 4 * 5 / 10
    # of the loop that runs most, without that of the function and the one after the loops
    assert counted["barriers_per_chunk"] == 2
    assert counted["f2f"] == 1
    assert counted["local_accesses"] == 1


def test_a_branch_whose_loops_make_no_trips_is_not_taken(machine_code, tmp_path):
    sass = """
        /*0000*/                   ISETP.GE P0, R0, R1 ;
        /*0010*/               @P0 BRA `(.L_x_2) ;
        /*0020*/                   MOV R2, R3 ;
.L_x_0:
	//## File "/elsewhere/package/kernel.py", line 2
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   STG.E [R2], R3 ;
        /*0050*/                   EXIT ;
.L_x_2:
        /*0060*/                   MOV R2, R3 ;
        /*0070*/                   MOV R2, R3 ;
.L_x_1:
	//## File "/elsewhere/package/kernel.py", line 4
        /*0080*/               @P1 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
"""
    directory = tmp_path / "package"
    directory.mkdir()
    (directory / "kernel.py").write_text(
        "if there:\n    for _ in range(first):\n        pass\n    for _ in range(second):\n        pass\n"
    )
    sizes = {"num_programs": 1, "first": 7, "second": 0}
    # both begin alike; three instructions of the first branch are outside of its loop, three of the second
    assert machine_code.count(sass, sizes, directory, 1, 1)["instructions_per_token"] == 2 + 3 + 7
    sizes = {"num_programs": 1, "first": 0, "second": 5}
    assert machine_code.count(sass, sizes, directory, 1, 1)["instructions_per_token"] == 2 + 3 + 5


def test_a_loop_that_is_not_understood_is_named(machine_code, package):
    with pytest.raises(ValueError, match=r"loop: got kernel.py:4, 'for _ in range\(num_iters\):': .*num_iters.*size"):
        machine_code.count(SASS, {"dim": 96, "BLOCK": 32, "num_programs": 5}, package, 4, 10)
    (package / "kernel.py").write_text(SOURCE.replace("for _ in range(num_iters)", "while going_on()"))
    with pytest.raises(ValueError, match=r"loop: got kernel.py:4, 'while going_on\(\):', expected a `for"):
        machine_code.count(SASS, SIZES, package, 4, 10)


def test_accesses_belong_to_the_argument_that_their_address_starts_from(machine_code):
    ptx = """
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_1];
	ld.param.b32 	%r1, [kernel_param_2];
	mul.wide.s32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;
	@%p1 ld.global.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd4 + 0 ];
	add.s64 	%rd5, %rd2, %rd3;
	ld.global.b32 	%r6, [%rd5];
	cvt.s64.s32 	%rd6, %r6;
	add.s64 	%rd7, %rd1, %rd6;
	st.global.v2.b32 	[%rd7], {%r2, %r3};
"""
    names = ["x_ptr", "index_ptr", "stride"]
    assert machine_code.narrowest_access(ptx, names, {"x_ptr"}) == 64
    assert machine_code.narrowest_access(ptx, names, {"index_ptr"}) == 32
    assert machine_code.narrowest_access(ptx, names, {"other_ptr"}) == 0


def test_what_exceeds_its_limit_is_named(machine_code):
    columns, limits = ["registers", "global_access_bits"], {"merge": {"bf16 sm_90": [96, 128]}}
    budget = {"C": 768, "columns": columns, "limits": limits}
    row = {"kernel": "merge", "dtype": "bf16", "target": "sm_90", "C": 768, "registers": 96, "global_access_bits": 128}
    assert machine_code.over_budget(row, budget) == []
    assert machine_code.over_budget(row | {"registers": 97, "global_access_bits": 64}, budget) == [
        "merge, bf16 sm_90: registers: got 97, expected at most 96",
        "merge, bf16 sm_90: global_access_bits: got 64, expected at least 128",
    ]
    # the limits hold at one width
    assert machine_code.over_budget(row | {"C": 192, "registers": 97}, budget) == []


@pytest.mark.slow
def test_the_kernels_of_the_boundary_keep_their_budget(tmp_path):
    script, file = BENCHMARKS / "kernel_resources.py", tmp_path / "budget.json"
    command = [sys.executable, "-W", "ignore", str(script), "--budget", "--json", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(file.read_text())["kernels"]
    assert {(row["dtype"], row["target"]) for row in rows} == {
        (dtype, target) for dtype in ("bf16", "fp32") for target in ("sm_80", "sm_90")
    }
    assert len(rows) == 4 * 14
