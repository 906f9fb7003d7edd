"""Counts from the machine code (SASS) of a kernel, for NVIDIA GPUs that need not be there.

Bytes bound a kernel only if its instructions do not. An SM issues one instruction of a warp per cycle on each of its
four schedulers, so the number to compare is **warp instructions per token**:

    sum over the instructions of the kernel: trips of the loops around it
    x warps of a program x programs / tokens

Loops are found as compilers define them: a branch to a block that dominates it closes a loop, whose body is what
reaches the branch without passing that block. The line table of the machine code says which `for` of the source the
branch belongs to, and the arguments of its `range`, evaluated with the sizes of a launch, say how often it runs:
C / BLOCK_CHANNELS times for channels, 20 times for the iterations of Sinkhorn-Knopp. What stands outside of loops
counts once, also where a branch may skip it; the 64-bit division, which is called for huge numbers alone, does not
count. A branch of the kernel whose loops make no trips is not taken. A loop of which the assembler peeled or unrolled
iterations counts them twice. Nothing here is a time.
"""

import functools
import math
import re
import subprocess
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(r'//## File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LABEL = re.compile(r"^(?P<label>\.L\w+|\$\S+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[\w.]+)\s*(?P<rest>.*?);")
_STATEMENT = re.compile(r"^\s*(?:@!?%\w+\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>.*);")
_TARGET = re.compile(r"`\(([^)]+)\)")
_LOOP = re.compile(r"^\s*for .* in range\((?P<bounds>.*)\):")


class Instruction(NamedTuple):
    """One instruction of a warp."""

    opcode: str
    """With its modifiers, as in `LDG.E.128`."""
    target: int | None
    """Index of the instruction that it may jump to."""
    conditional: bool
    source: tuple[str, int]
    """File and line."""

    def is_a(self, *names: str) -> bool:
        """Whether its opcode, without modifiers, is one of these."""
        return self.opcode.split(".")[0] in names


class Loop(NamedTuple):
    """A loop of the machine code."""

    head: int
    """Index of its first instruction."""
    body: frozenset[int]
    """Indices of its instructions."""
    source: tuple[str, int]
    """File and line of its `for`."""


@functools.cache
def disassemble(cubin: bytes) -> str:
    """SASS with labels and source lines."""
    return _run_tool("nvdisasm", cubin, "-c", "-g")


def read_registers(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    usage = _run_tool("cuobjdump", cubin, "-res-usage")
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    return registers, stack


def _run_tool(name: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / name, *options, file.name], capture_output=True, text=True, check=True).stdout


def parse(sass: str) -> list[Instruction]:
    """The instructions of a kernel, in their order, from what `disassemble` gives."""
    found: list[tuple[re.Match[str], tuple[str, int]]] = []
    labels: dict[str, int] = {}
    source = ("", 0)
    for text in sass.splitlines():
        if match := _LINE.search(text):
            source = match["file"], int(match["line"])
        elif match := _LABEL.match(text):
            labels[match["label"]] = len(found)
        elif match := _INSTRUCTION.match(text):
            found.append((match, source))
    code = []
    for match, source in found:
        name = _TARGET.search(match["rest"])
        # a call of a label is a jump; a call of a function comes back
        jumps = name and match["opcode"].split(".")[0] in ("BRA", "CALL") and not name[1].startswith("$")
        # Blackwell writes the condition of some branches as their first operand
        conditional = bool(match["guard"]) or "," in match["rest"].split("`")[0]
        code.append(Instruction(match["opcode"], labels[name[1]] if jumps else None, conditional, source))
    return code


def find_loops(code: list[Instruction]) -> list[Loop]:
    """Loops, outer and inner, of which the first instruction is reached."""
    blocks = _blocks(code)
    dominators = _dominators(blocks)
    bodies: dict[int, set[int]] = {}
    branches: dict[int, int] = {}
    for block, (last, following) in blocks.items():
        for head in following:
            if block in dominators and head in dominators[block]:
                bodies.setdefault(head, {head}).update(_reaching(block, head, blocks))
                branches[head] = last
    return [
        Loop(head, frozenset(_instructions(body, blocks)), code[branches[head]].source)
        for head, body in sorted(bodies.items())
    ]


def _blocks(code: list[Instruction]) -> dict[int, tuple[int, list[int]]]:
    """Basic blocks by their first instruction: the last one, and the blocks that may follow."""
    ends = {i for i, step in enumerate(code) if step.target is not None or step.is_a("EXIT", "RET")}
    starts = sorted({0, *(step.target for step in code if step.target is not None), *(i + 1 for i in ends)})
    starts = [start for start in starts if start < len(code)]
    blocks = {}
    for start, following in zip(starts, [*starts[1:], len(code)], strict=True):
        last = code[following - 1]
        leaves = following - 1 in ends and not last.conditional
        after = [] if leaves or following == len(code) else [following]
        blocks[start] = following - 1, after + ([] if last.target is None else [last.target])
    return blocks


def _dominators(blocks: dict[int, tuple[int, list[int]]]) -> dict[int, set[int]]:
    """Of each block that the first one reaches: the blocks on every way to it."""
    dominators = {0: {0}}
    changed = True
    while changed:
        changed = False
        for block in list(dominators):
            for following in blocks[block][1]:
                through = dominators[block] | {following}
                known = dominators.get(following)
                now = through if known is None else (known & dominators[block]) | {following}
                if now != known:
                    dominators[following], changed = now, True
    return dominators


def _reaching(block: int, head: int, blocks: dict[int, tuple[int, list[int]]]) -> set[int]:
    """Blocks from which `block` is reached without passing `head`."""
    found, waiting = {head}, [block]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += [before for before, (_, following) in blocks.items() if current in following]
    return found


def trips(loop: Loop, sizes: Mapping[str, Any], package: Path) -> int:
    """How often a loop runs, from the `range` in its source.

    Args:
        loop: as from `find_loops`.
        sizes: the arguments of the launch by their names, `num_programs` among them.
        package: directory of the package, whose files the line table names, perhaps in a copy elsewhere.

    Raises:
        ValueError: the branch belongs to no `for`, or its `range` names what `sizes` lacks.
    """
    file, line = loop.source
    path = package.joinpath(*Path(file).parts[Path(file).parts.index(package.name) + 1 :])
    text = path.read_text().splitlines()[line - 1]
    match = _LOOP.match(text)
    if match is None:
        raise ValueError(f"loop: got {path.name}:{line}, {text.strip()!r}, expected a `for ... in range(...)`")
    # the part of Triton's language that bounds are written in, for the first program
    language = SimpleNamespace(
        program_id=lambda axis: 0,
        num_programs=lambda axis: sizes["num_programs"],
        minimum=min,
        cdiv=lambda a, b: math.ceil(a / b),
    )
    try:
        return len(eval(f"range({match['bounds']})", {"__builtins__": {"range": range}, "tl": language}, dict(sizes)))
    except NameError as error:
        raise ValueError(f"loop: got {path.name}:{line}, {text.strip()!r}: {error}; give its size") from error


def count(sass: str, sizes: Mapping[str, Any], package: Path, num_warps: int, num_tokens: int) -> dict[str, float]:
    """What the machine code of a kernel does in a launch over `num_tokens` tokens.

    Args:
        sass: as from `disassemble`.
        sizes: the arguments of the launch by their names, and `num_programs`.
        package: directory of the package.
        num_warps: of a program.
        num_tokens: M.

    Returns:
        `instructions_per_token`, of warps; `barriers_per_chunk`, those in the loop that runs most instructions, or in
        the kernel where it has none; `f2f`, conversions of single numbers, not pairs; `local_accesses`, of spills.
    """
    code = parse(sass)
    loops = find_loops(code)
    runs = [1] * len(code)
    repeated = {loop.head: trips(loop, sizes, package) for loop in loops}
    for loop in loops:
        for i in loop.body:
            runs[i] *= repeated[loop.head]
    reached = _reached(code, repeated)
    barriers = [i for i in reached if code[i].is_a("BAR")]
    largest = max((loop.body for loop in loops), key=lambda body: sum(runs[i] for i in body), default=reached)
    return {
        "instructions_per_token": sum(runs[i] for i in reached) * num_warps * sizes["num_programs"] / num_tokens,
        "barriers_per_chunk": sum(i in largest for i in barriers),
        "f2f": sum(code[i].is_a("F2F") for i in reached),
        "local_accesses": sum(code[i].is_a("LDL", "STL") for i in reached),
    }


def _reached(code: list[Instruction], trips: Mapping[int, int]) -> set[int]:
    """Instructions that run, with the trips of loops by their heads: neither padding nor functions that are called."""
    blocks = _blocks(code)
    dominators = _dominators(blocks)
    still, running = (
        {block for head, count in trips.items() if bool(count) is runs for block in dominators[head]}
        for runs in (False, True)
    )
    skipped = still - running if running else set()
    return set(_instructions((block for block in dominators if not dominators[block] & skipped), blocks))


def _instructions(starts: Iterable[int], blocks: dict[int, tuple[int, list[int]]]) -> Iterator[int]:
    """Indices of the instructions of basic blocks."""
    return (i for start in starts for i in range(start, blocks[start][0] + 1))


def narrowest_access(ptx: str, arguments: Sequence[str], chosen: Container[str]) -> int:
    """Bits of the narrowest load or store of global memory through the chosen arguments, 0 where there is none.

    Addresses are followed back through PTX, which has the same loads and stores as the machine code, to the pointer
    among the arguments that they start from.

    Args:
        ptx: of one kernel.
        arguments: names of its arguments, in order.
        chosen: names of pointers.
    """
    made_from: dict[str, set[str]] = {}
    accesses = []
    for text in ptx.splitlines():
        match = _STATEMENT.match(text)
        if match is None:
            continue
        opcode, operands = match["opcode"], match["operands"]
        if opcode.startswith(("ld.global", "st.global")):
            vector, bits = re.search(r"\.v(\d)\.", opcode), int(re.search(r"\d+$", opcode)[0])
            accesses.append((re.search(r"\[\s*(%\w+)", operands)[1], bits * int(vector[1] if vector else 1)))
        elif opcode.startswith("ld.param") or not opcode.startswith(("ld", "st")):
            result, *inputs = re.findall(r"%\w+|\w+_param_\d+", operands) or [""]
            made_from.setdefault(result, set()).update(inputs)
    pointers = {f"_param_{i}" for i, name in enumerate(arguments) if name in chosen}
    return min((bits for address, bits in accesses if _starts_from(address, pointers, made_from)), default=0)


def _starts_from(register: str, pointers: Container[str], made_from: Mapping[str, set[str]]) -> bool:
    seen: set[str] = set()
    waiting = [register]
    while waiting:
        name = waiting.pop()
        if name[name.rfind("_param_") :] in pointers:
            return True
        if name not in seen:
            seen.add(name)
            waiting += made_from.get(name, ())
    return False


def over_budget(row: Mapping[str, Any], budget: Mapping[str, Any]) -> list[str]:
    """What exceeds its limit, in words.

    Args:
        row: the counts of one kernel, with its name, dtype, target and C.
        budget: as in `code_budget.yaml`; its limits hold at one C.
    """
    if row["C"] != budget["C"]:
        return []
    case = f"{row['dtype']} {row['target']}"
    limits = dict(zip(budget["columns"], budget["limits"][row["kernel"]][case], strict=True))
    # loads and stores are to be wide, all else small
    found = [
        f"{name}: got {row[name]}, expected at {'least' if name == 'global_access_bits' else 'most'} {limit}"
        for name, limit in limits.items()
        if (row[name] < limit if name == "global_access_bits" else row[name] > limit)
    ]
    return [f"{row['kernel']}, {case}: {what}" for what in found]
