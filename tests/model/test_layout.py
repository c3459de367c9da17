"""The rectangles that processes hold: together they are the whole tensor, each place once."""

from __future__ import annotations

import pytest
import torch

from wyrmling.model.layout import Grid, Layout, Shape, Split, layout_of


def held(shape: Shape, split: Split | None, grid: Grid) -> list[Layout]:
    """What the processes of one copy hold."""
    return [layout_of(shape, split, grid, rank) for rank in range(grid.shards * grid.tensor)]


@pytest.mark.parametrize(
    ("shape", "split", "grid"),
    [
        ((41, 16), None, Grid(1, 4, 1)),
        ((7,), None, Grid(2, 4, 1)),
        ((24, 5), Split("rows", (12, 8, 4)), Grid(1, 1, 4)),
        ((24, 5), Split("rows", (12, 8, 4)), Grid(1, 3, 2)),
        ((6, 8), Split("columns"), Grid(1, 4, 2)),
        ((12,), Split("rows", (8, 4)), Grid(1, 1, 2)),
    ],
)
def test_every_place_is_held_once(shape, split, grid):
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    again, times = torch.full(shape, -1.0), torch.zeros(shape)
    for layout in held(shape, split, grid):
        part = layout.cut(whole)
        assert part.shape == layout.held
        layout.paste(part, again)
        more = torch.zeros(shape)
        layout.paste(torch.ones_like(part), more)
        times += more
    assert torch.equal(again, whole)
    assert torch.equal(times, torch.ones(shape))
