"""Runs PTX for one program of threads with expressions in place of floating-point numbers.

Integers, so addresses, masks and loops, have their values; a floating-point number is the expression that makes it from
what was loaded, in the order and with the operations that a GPU would use. So two kernels make the same bits if they
make the same expressions, however they lay their tensors out over threads, shuffles and shared memory.

Threads run in step, which is right for programs whose branches all threads take together. Results of matrix products
are unknowns. A register holds an integer or a `Term`; two 16-bit numbers that share 32 bits are a term named `pack`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ptx_numbers import Term, Terms, Value, calculation

WARP = 32
# of the n-th argument that is a pointer, n from 1: tensors lie far apart
ADDRESS_BITS = 40


@dataclass(frozen=True)
class Argument:
    """An argument of a kernel, in the order of its signature."""

    name: str
    type: str
    """As in Triton's signatures: `*bf16`, `*fp32`, `i32`, `fp32`."""


@dataclass
class Run:
    """What a program did."""

    stores: dict[tuple[str, int], Value] = field(default_factory=dict)
    """What memory holds at its end, by argument and byte."""
    made: set[int] = field(default_factory=set)
    """Numbers of the terms that any thread made."""


def execute(
    ptx: str,
    arguments: Sequence[Argument],
    numbers: Mapping[str, int],
    terms: Terms,
    memory: Mapping[tuple[str, int], Value] | None = None,
) -> Run:
    """Runs the first program of a kernel.

    Args:
        ptx: of one kernel.
        arguments: its arguments, in order.
        numbers: values of those that are integers.
        terms: shared by the kernels whose results are compared.
        memory: what it holds at the beginning, as in `Run.stores`; elsewhere each element is a term of its own.

    Raises:
        ValueError: an instruction that is not known here, or a branch that depends on data.
    """
    program = _Program(ptx, arguments, numbers, terms)
    program.result.stores.update(memory or {})
    return program.run()


_STATEMENT = re.compile(r"^(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*?);$")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s|]+")
_INTEGER = re.compile(r"^-?(0[xX][0-9a-fA-F]+|\d+)U?$")


class _Program:
    """One program: registers by their names, a list over the threads each; shared memory by address, 16 bits each."""

    def __init__(self, ptx: str, arguments: Sequence[Argument], numbers: Mapping[str, int], terms: Terms) -> None:
        self.terms, self.arguments, self.numbers = terms, arguments, numbers
        self.threads = range(int(re.search(r"\.reqntid (\d+)", ptx)[1]))
        self.registers: dict[str, list[Value]] = {}
        self.shared: dict[int, Value] = {}
        self.result = Run()
        self.statements, self.labels = [], {}
        for line in ptx[ptx.index("{", ptx.index(".entry")) :].splitlines():
            text = line.split("//")[0].strip()
            if text.startswith("$") and text.endswith(":"):
                self.labels[text[:-1]] = len(self.statements)
            elif match := _STATEMENT.match(text):
                self.statements.append(match.groups())

    def run(self) -> Run:
        at = 0
        while at < len(self.statements):
            negated, predicate, name, rest = self.statements[at]
            active = [True] * len(self.threads)
            if predicate:
                active = [bool(p) != (negated == "!") for p in self.concrete(self.registers[predicate], name)]
            operands = _OPERAND.findall(rest)
            at += 1
            if name.startswith("bra"):
                if len(set(active)) > 1:
                    raise ValueError(f"{name} {rest}: got a branch that some threads take, expected all or none")
                at = self.labels[operands[0]] if active[0] else at
            elif name == "ret" and all(active):
                break
            else:
                self.step(name, operands, active)
        return self.result

    def step(self, name: str, operands: list[str], active: list[bool]) -> None:
        """One instruction on the threads that are active."""
        kind, *modifiers = name.split(".")
        if kind in ("bar", "membar", "fence", "ret"):
            return
        if kind in ("ld", "st"):
            self.access(name, operands, active)
        elif kind in ("ldmatrix", "stmatrix"):
            self.matrix(name, operands)
        elif kind in ("mma", "wgmma"):
            if modifiers[0] in ("sync", "mma_async"):
                for register in _names(operands[0]):
                    self.write(register, [self.terms.unknown() for _ in self.threads], active)
        elif kind == "shfl":
            self.write(operands[0], self.shuffled(modifiers[1], operands), active)
        else:
            inputs = [self.read(operand) for operand in operands[1:]]
            calculate = calculation(kind, modifiers, self.terms)
            self.write(operands[0], [calculate(*values) for values in zip(*inputs, strict=True)], active)

    def read(self, operand: str) -> list[Value]:
        """The values of an operand in each thread."""
        if operand.startswith("{"):
            parts = [self.read(name) for name in _names(operand)]
            return [self.terms.pack(*pair) for pair in zip(*parts, strict=True)]
        if operand in self.registers:
            return self.registers[operand]
        if operand == "%tid.x":
            return list(self.threads)
        if operand.startswith("0f"):
            return [int(operand[2:], 16)] * len(self.threads)
        if _INTEGER.match(operand):
            return [int(operand.rstrip("U"), 0)] * len(self.threads)
        # the first program of the grid; shared memory starts at address 0
        if operand.startswith("%ctaid.") or operand == "global_smem":
            return [0] * len(self.threads)
        raise ValueError(f"{operand}: got an operand that is not known, expected a register or a number")

    def write(self, operand: str, values: Iterable[Value], active: list[bool]) -> None:
        """Into a register, or two of 16 bits."""
        values = list(values)
        if operand.startswith("{"):
            pairs = [self.terms.unpack(value) for value in values]
            for name, half in zip(_names(operand), zip(*pairs, strict=True), strict=True):
                self.write(name, half, active)
            return
        before = self.registers.get(operand, [0] * len(self.threads))
        self.registers[operand] = [new if on else old for new, old, on in zip(values, before, active, strict=True)]
        self.result.made.update(v.number for v, on in zip(values, active, strict=True) if on and isinstance(v, Term))

    def concrete(self, values: list[Value], name: str) -> list[int]:
        """Integers or booleans, or a ValueError."""
        if any(isinstance(value, Term) for value in values):
            raise ValueError(f"{name}: got an address or a predicate that depends on data, expected an integer")
        return values

    def addresses(self, operand: str, name: str) -> list[int]:
        base, _, offset = operand.strip("[] ").partition("+")
        return [at + int(offset or 0) for at in self.concrete(self.read(base.strip()), name)]

    def access(self, name: str, operands: list[str], active: list[bool]) -> None:
        """A load or store of one register or several, in the order of their addresses."""
        kind, space, *modifiers = name.split(".")
        space, bits = space.split("::")[0], int(re.search(r"\d+$", modifiers[-1])[0])
        if space == "param":
            self.write(operands[0], [self.parameter(operands[1])] * len(self.threads), active)
            return
        registers, where = operands[:2] if kind == "ld" else (operands[1], operands[0])
        names = _names(registers) if registers.startswith("{") else [registers]
        addresses = self.addresses(where, name)
        for i, register in enumerate(names):
            at = [address + i * bits // 8 for address in addresses]
            if kind == "ld":
                load = self.load_global if space == "global" else self.load_shared
                self.write(register, [load(a, bits) if on else 0 for a, on in zip(at, active, strict=True)], active)
            else:
                store = self.store_global if space == "global" else self.store_shared
                for address, value, on in zip(at, self.read(register), active, strict=True):
                    if on:
                        store(address, value, bits)

    def parameter(self, operand: str) -> Value:
        number = int(re.search(r"_param_(\d+)", operand)[1])
        # Triton appends pointers to scratch memory
        if number >= len(self.arguments) or self.arguments[number].type.startswith("*"):
            return number + 1 << ADDRESS_BITS
        argument = self.arguments[number]
        return self.terms.make("argument", argument.name) if argument.type == "fp32" else self.numbers[argument.name]

    def element(self, address: int) -> tuple[str, int, int]:
        """Argument, byte and width in bits of what lies at an address."""
        argument = self.arguments[(address >> ADDRESS_BITS) - 1]
        return argument.name, address & (1 << ADDRESS_BITS) - 1, int(argument.type[-2:])

    def load_global(self, address: int, bits: int) -> Value:
        name, at, width = self.element(address)
        if width < bits:
            return self.terms.pack(self.load_global(address, width), self.load_global(address + width // 8, width))
        stored = self.result.stores.get((name, at))
        return self.terms.make("load", name, at) if stored is None else stored

    def store_global(self, address: int, value: Value, bits: int) -> None:
        name, at, width = self.element(address)
        if width < bits:
            for i, half in enumerate(self.terms.unpack(value)):
                self.result.stores[name, at + i * width // 8] = half
        else:
            self.result.stores[name, at] = value

    def load_shared(self, address: int, bits: int) -> Value:
        if bits == 16:
            return self.shared[address]
        return self.terms.pack(self.shared[address], self.shared[address + 2])

    def store_shared(self, address: int, value: Value, bits: int) -> None:
        parts = [value] if bits == 16 else self.terms.unpack(value)
        for i, part in enumerate(parts):
            self.shared[address + 2 * i] = part

    def shuffled(self, mode: str, operands: list[str]) -> list[Value]:
        """What each thread gets from another one of its warp."""
        values, lanes, limits = (self.read(operand) for operand in operands[-4:-1])
        found = []
        for thread, (lane, limit) in enumerate(zip(lanes, limits, strict=True)):
            own, segment = thread % WARP, limit >> 8
            source = {
                "idx": (own & segment) | (lane & ~segment & 31),
                "bfly": own ^ lane,
                "up": own - lane,
                "down": own + lane,
            }[mode]
            inside = 0 <= source < WARP
            found.append(values[thread - own + source if inside else thread])
        return found

    def matrix(self, name: str, operands: list[str]) -> None:
        """8 x 8 matrices of 16 bits: the n-th eight threads of a warp hold the addresses of the n-th one's rows."""
        load = name.startswith("ld")
        registers, where = operands[:2] if load else (operands[1], operands[0])
        addresses, trans = self.addresses(where, name), ".trans" in name
        active = [True] * len(self.threads)
        for i, register in enumerate(_names(registers)):
            halves = []
            for thread in self.threads:
                own = thread % WARP
                row = [addresses[thread - own + 8 * i + r] for r in range(8)]
                if trans:
                    halves.append([row[2 * (own % 4) + e] + 2 * (own // 4) for e in range(2)])
                else:
                    halves.append([row[own // 4] + 4 * (own % 4) + 2 * e for e in range(2)])
            if load:
                self.write(register, [self.terms.pack(*(self.shared[a] for a in pair)) for pair in halves], active)
            else:
                for pair, value in zip(halves, self.read(register), strict=True):
                    self.shared.update(zip(pair, self.terms.unpack(value), strict=True))


def _names(operand: str) -> list[str]:
    return re.findall(r"[%\w.]+", operand)
