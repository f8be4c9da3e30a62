r"""How a table is set in LaTeX so that it fits `\textwidth` and the page of a two-column article.

Sizes are points. Widths of text are estimated from the letters of Computer Modern, a little wide:
a size of type, line breaks in heads and cells, and where a table is split follow from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .grid import Block, Cell, Table

# Of the narrowest two-column classes; article itself has 470 x 550.
WIDTH, HEIGHT = 450.0, 520.0
# Size of type -> its points and the space at each side of a column.
SIZES = {"small": (9.0, 5.0), "footnotesize": (8.0, 4.0), "scriptsize": (7.0, 3.0)}
SCRIPT = 7.0
WRAPS_FROM, NARROWEST = 80.0, 38.0
_STEP = 8.0  # by which a column is made wider
_RAGGED = 0.9  # what a ragged line uses of its width
_LINE = 1.25  # of a row, over the size of its type
# Of the letters of cmr10, over the size of type; of smaller types they are wider.
_WIDTHS = {
    **dict.fromkeys("iljt'.,:;|!()[]", 0.34),
    **dict.fromkeys("crsez-f ", 0.44),
    **dict.fromkeys("bdhknpquvxygo", 0.55),
    **dict.fromkeys("ABCDEFGHKLNOPQRTUVXYZw&~^_", 0.76),
    **dict.fromkeys("mMW%<>+=\\\N{MULTIPLICATION SIGN}\N{MINUS SIGN}\N{PLUS-MINUS SIGN}", 0.95),
}
_WIDER = {10.0: 1.0, 9.0: 1.03, 8.0: 1.07, 7.0: 1.14}


@dataclass(frozen=True)
class Part:
    """One tabular: its heading, columns as LaTeX has them, heads of one or more lines, rows."""

    size: str
    column_space: float
    heading: str
    columns: str
    heads: Sequence[Sequence[str]]
    kinds: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    gap: float  # between rows, in points


@dataclass(frozen=True)
class Float:
    """What stands on one page: its tabulars, and whether the notes follow."""

    parts: Sequence[Part]
    notes: bool = False


def floats(table: Table) -> list[Float]:
    """The table as floats of which each fits a page."""
    caption = _lines(table.caption, WIDTH, 10.0) * 12 + 24
    notes = sum(_lines(note, WIDTH, 8.0) for note in table.notes) * 10.0
    found: list[Float] = []
    used = HEIGHT  # so that the first part opens a float
    for part, height in _parts(table.blocks):
        if not found or used + height > HEIGHT:
            used = 20.0 if found else caption
            found.append(Float([]))
        found[-1] = replace(found[-1], parts=[*found[-1].parts, part])
        used += height
    if not found or used + notes > HEIGHT:
        found.append(Float([]))
    return [*found[:-1], replace(found[-1], notes=True)]


def _parts(blocks: Sequence[Block]) -> Iterator[tuple[Part, float]]:
    """(tabular, its height), each short enough for a page of its own."""
    for block in blocks:
        for columns in _fitting(block, list(range(len(block.columns)))):
            size, widths, wrapped = _layout(block, columns)
            yield from _split(block, columns, size, widths, wrapped)


def _fitting(block: Block, columns: list[int]) -> list[list[int]]:
    """The columns in as few tabulars as fit the width, the keys in each."""
    own = [index for index in columns if index >= block.num_keys]
    size, widths, _ = _layout(block, columns)
    if _total(widths, size) <= WIDTH or len(own) < 2:
        return [columns]
    keys, half = columns[: len(columns) - len(own)], (len(own) + 1) // 2
    return [*_fitting(block, keys + own[:half]), *_fitting(block, keys + own[half:])]


def _layout(block: Block, columns: Sequence[int]) -> tuple[str, list[float], list[bool]]:
    """The largest size of type at which the columns fit, their widths, and which of them wrap."""
    for size in SIZES:
        natural = [_natural(block, index, size) for index in columns]
        wraps = [width > WRAPS_FROM for width in natural]
        rest = sum(width for width, wrap in zip(natural, wraps, strict=True) if not wrap)
        room = WIDTH - (_total(natural, size) - sum(natural)) - rest
        wide = [width for width, wrap in zip(natural, wraps, strict=True) if wrap]
        if sum(wide) <= room:
            return size, natural, [False] * len(natural)
        least = [
            max(NARROWEST, _longest_word(block, index, size))
            for index, wrap in zip(columns, wraps, strict=True)
            if wrap
        ]
        cells = [
            [_cell_width(row[index], SIZES[size][0]) for row in block.cells()]
            for index, wrap in zip(columns, wraps, strict=True)
            if wrap
        ]
        shares = _shares(cells, least, room)
        widths = [shares.pop(0) if wrap else w for w, wrap in zip(natural, wraps, strict=True)]
        # Prose in columns of a few words is worse than smaller type.
        if size == "scriptsize" or (sum(least) <= room and room >= 0.4 * sum(wide)):
            break
    return size, widths, wraps


def _shares(columns: Sequence[Sequence[float]], least: Sequence[float], room: float) -> list[float]:
    """Widths of columns that wrap, from the widths of their cells: those that make fewest lines."""
    widths = list(least)
    while sum(widths) + _STEP <= room:
        wider = [
            [width + _STEP * (number == index) for number, width in enumerate(widths)]
            for index in range(len(widths))
        ]
        widths = min(wider, key=lambda tried: _cost(columns, tried))
    return widths


def _cost(columns: Sequence[Sequence[float]], widths: Sequence[float]) -> tuple[int, float]:
    """Lines of all rows; of equals, how far the cells are over their columns."""
    lines = [
        [math.ceil(cell / (_RAGGED * width)) for cell in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    over = sum(
        max(0.0, cell - width)
        for column, width in zip(columns, widths, strict=True)
        for cell in column
    )
    return sum(map(max, zip(*lines, strict=True))), over


def _total(widths: Sequence[float], size: str) -> float:
    return sum(widths) + 2 * SIZES[size][1] * (len(widths) - 1)


def _split(
    block: Block, columns: list[int], size: str, widths: list[float], wraps: list[bool]
) -> Iterator[tuple[Part, float]]:
    """The rows in parts of which each fits a page; in each, the first row has all its keys."""
    points = SIZES[size][0]
    heads = [_head(block, index, size) for index in columns]
    gap = 2.0 if any(wraps) else 0.0
    top = 34.0 + max(map(len, heads)) * points * _LINE
    kinds = block.kinds(key="l", prose="l", number="r")
    kinds = [kinds[index] for index in columns]
    spec = "".join(
        (r">{\raggedright\arraybackslash}" if kind == "l" else r">{\raggedleft\arraybackslash}")
        + f"p{{{width / WIDTH:.3f}\\textwidth}}"
        if wrap
        else kind
        for kind, width, wrap in zip(kinds, widths, wraps, strict=True)
    )

    def part(rows: list[list[Cell]]) -> Part:
        space = SIZES[size][1]
        return Part(size, space, block.heading or "", spec, heads, kinds, rows, gap)

    rows: list[list[Cell]] = []
    used = top
    for whole in block.cells():
        row = [whole[index] for index in columns]
        deep = [
            _lines(_text(c), w, points)
            for c, w, wrap in zip(row, widths, wraps, strict=True)
            if wrap
        ]
        height = max([1, *deep]) * points * _LINE + gap
        if rows and used + height > HEIGHT - 60:
            yield part(rows), used
            rows, used = [], top
        rows.append(row if rows else [replace(cell, repeats=False) for cell in row])
        used += height
    yield part(rows), used


def _text(cell: Cell) -> str:
    more = (cell.error, cell.remark and f"({cell.remark})", cell.printed and f"[{cell.printed}]")
    return " ".join([cell.text, *filter(None, more)])


def _natural(block: Block, index: int, size: str) -> float:
    """Width of a column that breaks no line but in its head."""
    points = SIZES[size][0]
    cells = (_cell_width(row[index], points) for row in block.cells())
    head = max(_width(line, points) for line in _head(block, index, size))
    return max([head, *cells])


def _head(block: Block, index: int, size: str) -> list[str]:
    """A head in two lines where it is longer than what stands under it."""
    text, points = block.columns[index], SIZES[size][0]
    below = max((_cell_width(row[index], points) for row in block.cells()), default=0.0)
    words = text.split(" ")
    if len(words) == 1 or _width(text, points) <= below:
        return [text]
    cuts = ([" ".join(words[:cut]), " ".join(words[cut:])] for cut in range(1, len(words)))
    return min(cuts, key=lambda lines: max(_width(line, points) for line in lines))


def _cell_width(cell: Cell, points: float) -> float:
    small = _text(cell)[len(cell.text) :]
    return _width(cell.shown, points) * (1.15 if cell.bold else 1.0) + _width(small, SCRIPT)


def _longest_word(block: Block, index: int, size: str) -> float:
    words = (word for row in block.cells() for word in re.split("[ /]", _text(row[index])))
    return max((_width(word, SIZES[size][0]) for word in words), default=0.0)


def _lines(text: str, width: float, points: float) -> int:
    """Lines of a ragged paragraph."""
    return max(1, math.ceil(_width(text, points) / (_RAGGED * width)))


def _width(text: str, points: float) -> float:
    return points * _WIDER[points] * sum(_WIDTHS.get(sign, 0.51) for sign in text)
