"""Tensors of which several files have pieces: what each process of a cut model wrote, put together or cut anew.

The header of a safetensors file says which rectangles of which whole tensors are in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wyrmling.model.layout import Layout, Piece, matrix, whole_layout

# The name in the header: a JSON object, tensor -> [shape of the whole, shape here, rectangles].
HEADER = "layouts"


def save(tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout], path: Path) -> None:
    """Write the tensors that have a layout."""
    header = json.dumps({name: (one.shape, one.held, one.pieces) for name, one in layouts.items()})
    mine = {name: tensors[name].detach().contiguous() for name in layouts}
    save_file(mine, str(path), metadata={"format": "pt", HEADER: header})


class Pieces(Mapping[str, Tensor]):
    """The tensors that several files hold together, put together when asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._opened: list[Any] = [safe_open(str(file), "pt") for file in files]
        self._places: dict[str, list[tuple[int, Layout]]] = {}
        for number, opened in enumerate(self._opened):
            for name, (shape, held, pieces) in json.loads(opened.metadata()[HEADER]).items():
                layout = Layout(tuple(shape), tuple(held), tuple(Piece(*piece) for piece in pieces))
                self._places.setdefault(name, []).append((number, layout))

    def __getitem__(self, name: str) -> Tensor:
        return self.part(name, whole_layout(self._places[name][0][1].shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def part(self, name: str, wanted: Layout) -> Tensor:
        """What a process with this layout holds of a tensor; only that is read."""
        number, layout = self._places[name][0]
        if not layout.shape:
            scalar: Tensor = self._opened[number].get_tensor(name)
            return scalar
        found = torch.empty(wanted.held, dtype=self._opened[number].get_slice(name)[:0].dtype)
        into = matrix(found)
        for number, layout in self._places[name]:
            stored = self._opened[number].get_slice(name)
            for piece in layout.pieces:
                for mine in wanted.pieces:
                    _copy(stored, piece, into, mine, flat=len(layout.shape) == 1)
        return found


def _copy(stored: Any, piece: Piece, into: Tensor, mine: Piece, *, flat: bool) -> None:
    """Copy where a stored rectangle and a wanted one overlap."""
    top, bottom = max(piece.row, mine.row), min(piece.row + piece.rows, mine.row + mine.rows)
    left = max(piece.column, mine.column)
    right = min(piece.column + piece.columns, mine.column + mine.columns)
    if top >= bottom or left >= right:
        return
    rows = slice(piece.at + top - piece.row, piece.at + bottom - piece.row)
    read = stored[rows] if flat else stored[rows, left - piece.column : right - piece.column]
    at = mine.at + top - mine.row
    into[at : at + bottom - top, left - mine.column : right - mine.column] = matrix(read)
