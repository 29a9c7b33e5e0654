"""Convolution problems as text: one line each, read by the benchmarks and by the tests.

    # name          N   C  H  W   O  KH KW  stride padding dilation groups
    lenet-mnist.c1  64  1  32 32  6  5  5   1      0       1        1         # a comment ends the line
    s2x1            2   16 9  9   16 3  3   2x1    1       1        1         # 2x1: stride 2 down, 1 across

A list lies in bench/shapes/NAME.txt and is loaded by its name, any other file by its path. A line that cannot be a
convolution is refused with file and line number, so that a slip never turns into a different measurement.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastcnn import shapes

SHAPES = Path(__file__).parent / "shapes"
FIELDS = ("name", "N", "C", "H", "W", "O", "KH", "KW", "stride", "padding", "dilation", "groups")


class ProblemError(ValueError):
    """A problem list that cannot be read; the message begins with file:line."""


@dataclass(frozen=True)
class Problem:
    """One convolution: input (N, C, H, W), weight (O, C/groups, KH, KW); pairs are (down, across)."""

    name: str
    N: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741  (the house letter for filters)
    KH: int
    KW: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def __post_init__(self) -> None:
        for field in ("N", "C", "H", "W", "O", "KH", "KW", "groups"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} is below 1")
        for field, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if min(getattr(self, field)) < least:
                raise ValueError(f"{field} {shapes.by(getattr(self, field))} is below {least}")
        for field in ("C", "O"):
            if getattr(self, field) % self.groups:
                raise ValueError(f"{field} = {getattr(self, field)} is not a multiple of groups = {self.groups}")
        _ = self.output_shape  # raises ShapeError if the kernel does not fit

    @property
    def kernel(self) -> tuple[int, int]:
        return self.KH, self.KW

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.O, self.C // self.groups, self.KH, self.KW

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        padding = shapes.resolve_padding(self.padding, self.kernel, self.stride, self.dilation)
        return self.N, self.O, *shapes.conv2d_output_size((self.H, self.W), self.kernel, self.stride, padding, self.dilation)

    @property
    def options(self) -> dict[str, int | tuple[int, int]]:
        """The keyword arguments of functional.conv2d."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def flops(self) -> int:
        """Of forward, grad_input or grad_weight alike: 2 per multiply-add, those on padding counted (all libraries count so)."""
        return 2 * shapes.conv2d_macs(self.N, self.C, self.O, self.kernel, self.output_shape[2:], self.groups)

    @property
    def elements(self) -> int:
        """Numbers that must cross memory once, whatever the algorithm: input, weight and output."""
        return math.prod(self.input_shape) + math.prod(self.weight_shape) + math.prod(self.output_shape)

    @property
    def bytes(self) -> int:
        """`elements` in float32."""
        return 4 * self.elements

    def __str__(self) -> str:
        """The shape in the letters of the test ids: n2c3h9w8_o4k3x2_s2x1_p1x0_d1x1_g1."""
        options = "_".join(letter + shapes.by(pair) for letter, pair in zip("spd", (self.stride, self.padding, self.dilation), strict=True))
        return f"n{self.N}c{self.C}h{self.H}w{self.W}_o{self.O}k{self.KH}x{self.KW}_{options}_g{self.groups}"


def names() -> list[str]:
    """The lists that come with the suite."""
    return sorted(path.stem for path in SHAPES.glob("*.txt"))


def load(name: str | Path) -> list[Problem]:
    """The problems of the list `name` (see names()) or, if there is none of that name, of the file at that path."""
    path = SHAPES / f"{name}.txt"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise ProblemError(f"no problem list {str(name)!r}: neither a file nor one of {', '.join(names())}")
    return parse(path.read_text(encoding="utf-8").splitlines(), path.name)


def parse(lines: Iterable[str], source: str) -> list[Problem]:
    """Problems from lines of text; `source` is the file name for messages."""
    problems: dict[str, Problem] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            problem = _problem(words)
        except ValueError as error:
            raise ProblemError(f"{source}:{number}: {error}") from None
        if problem.name in problems:
            raise ProblemError(f"{source}:{number}: the name {problem.name!r} is taken by an earlier line")
        problems[problem.name] = problem
    if not problems:
        raise ProblemError(f"{source}: holds no problem")
    return list(problems.values())


def _problem(words: list[str]) -> Problem:
    if len(words) != len(FIELDS):
        raise ValueError(f"{len(words)} words where {len(FIELDS)} belong ({' '.join(FIELDS)})")
    values = {
        field: word if field == "name" else _pair(field, word) if field in ("stride", "padding", "dilation") else _int(field, word)
        for field, word in zip(FIELDS, words, strict=True)
    }
    return Problem(**values)


def _int(field: str, word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError(f"{field} {word!r} is not a whole number")
    return int(word)


def _pair(field: str, word: str) -> tuple[int, int]:
    parts = word.split("x")
    if len(parts) > 2:
        raise ValueError(f"{field} {word!r} is neither a number nor a pair like 2x1")
    first, last = _int(field, parts[0]), _int(field, parts[-1])
    return first, last
