"""Which rectangles of whole tensors a process holds.

Everything that has to know how a model is spread goes by this: how starting weights arrive, how Muon gets whole
matrices, what a checkpoint holds and how another number of processes reads it.

Letters: R rows, C columns of a tensor seen as a matrix: its first dimension times the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """A rectangle of a whole tensor, and the rows of the local tensor that it lies in."""

    at: int
    rows: int
    row: int
    column: int
    columns: int

    @property
    def local(self) -> slice:
        return slice(self.at, self.at + self.rows)

    @property
    def whole(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


@dataclass(frozen=True)
class Layout:
    """Which part of a tensor a process holds.

    shape    of the whole tensor
    held     of the local one
    pieces   rectangles; the local tensor is one above the other
    counted  False where other processes of the same copy of the model hold the same (a norm, with tensor parallel)
    """

    shape: Shape
    held: Shape
    pieces: tuple[Piece, ...]
    counted: bool = True

    @property
    def complete(self) -> bool:
        return self.shape == self.held

    def cut(self, whole: Tensor) -> Tensor:
        """The local tensor, from the whole one."""
        matrix_RC = matrix(whole)
        parts = [matrix_RC[piece.whole] for piece in self.pieces]
        return torch.cat(parts).reshape(self.held) if parts else whole.new_empty(self.held)

    def paste(self, local: Tensor, whole: Tensor) -> None:
        """Put the local tensor where it belongs in the whole one."""
        from_RC, to_RC = matrix(local), matrix(whole)
        for piece in self.pieces:
            to_RC[piece.whole] = from_RC[piece.local]


class Split(NamedTuple):
    """How tensor parallelism cuts a tensor: by rows, separately in each of its stacked `parts`, or by columns."""

    by: Literal["rows", "columns"]
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The processes as a box: copies of the model x shards of a copy x ranks that share each matrix.

    Ranks count along the last of these first, so those that share matrices are neighbours.
    """

    replicas: int
    shards: int
    tensor: int

    @property
    def cut(self) -> bool:
        """Whether a process holds less than the whole model."""
        return self.shards * self.tensor > 1

    def copies(self) -> list[list[int]]:
        """The ranks of each copy of the model."""
        size = self.shards * self.tensor
        return [list(range(begin, begin + size)) for begin in range(0, self.replicas * size, size)]


def matrix(tensor: Tensor) -> Tensor:
    """The tensor as a matrix: its first dimension times the rest."""
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1) if tensor.numel() else tensor.reshape(0, 1)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: the same memory, as a plain tensor."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held


def layout_of(shape: Shape, split: Split | None, grid: Grid, rank: int) -> Layout:
    """What a process holds of a tensor: its tensor-parallel share, and of that its rows, as FSDP2 deals them.

    split   how the ranks that share matrices cut it; None: they all have it
    """
    shard, tensor = rank // grid.tensor % grid.shards, rank % grid.tensor
    pieces = list(_shared(shape, split, tensor, grid.tensor))
    height = sum(piece.rows for piece in pieces)
    each = -(-height // grid.shards)
    begin, end = min(height, shard * each), min(height, (shard + 1) * each)
    wide = (pieces[0].columns,) if split is not None and split.by == "columns" else shape[1:]
    return Layout(
        shape,
        (end - begin, *wide) if shape else (),
        tuple(_within(pieces, begin, end)),
        counted=split is not None or tensor == 0,
    )


def whole_layout(shape: Shape) -> Layout:
    """That of a tensor which is all here."""
    return layout_of(shape, None, Grid(1, 1, 1), 0)


def _shared(shape: Shape, split: Split | None, index: int, size: int) -> Iterator[Piece]:
    """What a tensor-parallel rank has of a tensor."""
    rows = shape[0] if shape else 1
    columns = int(torch.Size(shape[1:]).numel())
    if split is None:
        yield Piece(0, rows, 0, 0, columns)
    elif split.by == "columns":
        yield Piece(0, rows, 0, index * columns // size, columns // size)
    else:
        at = row = 0
        for part in split.parts:
            yield Piece(at, part // size, row + index * part // size, 0, columns)
            at, row = at + part // size, row + part


def _within(pieces: list[Piece], begin: int, end: int) -> Iterator[Piece]:
    """The same of the local rows from `begin` to `end`, counted from there."""
    for piece in pieces:
        first, last = max(begin, piece.at), min(end, piece.at + piece.rows)
        if first < last:
            yield piece._replace(at=first - begin, rows=last - first, row=piece.row + first - piece.at)
