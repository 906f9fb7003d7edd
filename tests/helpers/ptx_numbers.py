"""Numbers of `symbolic_ptx` and PTX's arithmetic: integers have their values, other numbers are what makes them."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

MASK = {8: 2**8 - 1, 16: 2**16 - 1, 32: 2**32 - 1, 64: 2**64 - 1}


class Term:
    """A number as what makes it: an operation and its arguments. Equal terms are one object."""

    __slots__ = ("args", "number", "op")

    def __init__(self, op: str, args: tuple[Any, ...], number: int) -> None:
        self.op, self.args, self.number = op, args, number

    def __repr__(self) -> str:
        """Three levels of it: as text, shared parts would repeat without end."""
        return self.text(3)

    def text(self, depth: int) -> str:
        """The outer levels of the expression."""
        inner = (arg.text(depth - 1) if isinstance(arg, Term) else repr(arg) for arg in self.args)
        return f"{self.op}({', '.join(inner) if depth else '...'})"


Value = int | bool | Term


class Terms:
    """All terms of the programs that are compared."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Term] = {}

    def make(self, op: str, *args: Any) -> Term:
        """The term; the order of two factors or summands, or of what is compared, makes no difference."""
        if op.startswith(("mul", "add", "fma", "max", "min")):
            first, second = sorted(args[:2], key=lambda arg: arg.number if isinstance(arg, Term) else -1 - arg)
            args = (first, second, *args[2:])
        key = (op, *(("term", arg.number) if isinstance(arg, Term) else arg for arg in args))
        return self._known.setdefault(key, Term(op, args, len(self._known)))

    def unknown(self) -> Term:
        """A number like no other."""
        return self.make("unknown", len(self._known))

    def pack(self, low: Value, high: Value) -> Value:
        """32 bits from 2 x 16."""
        if isinstance(low, int) and isinstance(high, int):
            return low | high << 16
        halves = isinstance(low, Term) and isinstance(high, Term) and (low.op, high.op) == ("low", "high")
        return low.args[0] if halves and low.args == high.args else self.make("pack", low, high)

    def unpack(self, value: Value) -> tuple[Value, Value]:
        """2 x 16 bits from 32."""
        if isinstance(value, int):
            return value & MASK[16], value >> 16
        return value.args if value.op == "pack" else (self.make("low", value), self.make("high", value))


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_INTEGERS: dict[str, Callable[..., int]] = {
    "mov": lambda a: a,
    "cvt": lambda a: a,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "mad": lambda a, b, c: a * b + c,
    # as Python, but towards zero
    "div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "rem": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": operator.invert,
    "neg": operator.neg,
    "min": min,
    "max": max,
}


def calculation(kind: str, modifiers: list[str], terms: Terms) -> Callable[..., Value]:
    """What an arithmetic instruction makes of the values of its operands."""
    name, type_ = ".".join((kind, *modifiers)), modifiers[-1]
    if kind == "selp":
        return lambda a, b, p: terms.make(name, a, b, p) if isinstance(p, Term) else a if p else b
    if type_ == "pred":
        logic = {"and": lambda a, b: a and b, "or": lambda a, b: a or b, "not": lambda a: not a, "mov": bool}
        return logic[kind]
    if name == "cvt.rn.bf16x2.f32":
        return lambda a, b: terms.pack(terms.make("cvt.rn.bf16.f32", b), terms.make("cvt.rn.bf16.f32", a))
    bits = int(re.search(r"(\d+)(x2)?$", type_)[1])
    # into a register that is as wide as the first type of a conversion, twice as wide as a wide product
    target = modifiers[-2] if kind == "cvt" else type_
    result_bits = int(re.search(r"(\d+)(x2)?$", target)[1]) * (2 if "wide" in modifiers else 1)
    signed = type_.startswith("s")

    def calculate(*args: Value) -> Value:
        floating = type_.startswith(("f", "bf")) or target.startswith(("f", "bf"))
        if kind != "mov" and (floating or any(isinstance(arg, Term) for arg in args)):
            return _term(name, args, terms)
        if isinstance(args[0], Term):
            return args[0]
        given = [_signed(arg, bits) if signed else arg & MASK[bits] for arg in args]
        if kind == "setp":
            return _COMPARE[modifiers[0]](*given)
        if kind == "bfe":
            return _bit_field(*given, signed, bits)
        # the third operand of a wide product is wide
        if kind == "mad" and result_bits != bits:
            given[2] = _signed(args[2], result_bits)
        if kind not in _INTEGERS:
            raise ValueError(f"{name}: got an instruction that is not known, expected one of {', '.join(_INTEGERS)}")
        return _INTEGERS[kind](*given) & MASK[result_bits]

    return calculate


def _term(name: str, args: Sequence[Value], terms: Terms) -> Value:
    """An operation on numbers that are not known; those on halves of 32 bits are upcasts of bf16."""
    if name == "shl.b32" and args[1] == 16:
        return terms.make("cvt.f32.bf16", terms.unpack(args[0])[0])
    if name == "and.b32" and args[1] in (-65536, 0xFFFF0000):
        return terms.make("cvt.f32.bf16", terms.unpack(args[0])[1])
    return terms.make(name, *args)


def _bit_field(value: int, start: int, length: int, signed: bool, width: int) -> int:
    """`length` bits of a number, from `start` on."""
    field = (value & MASK[width]) >> start & ((1 << length) - 1)
    return _signed(field, length) & MASK[width] if signed else field
