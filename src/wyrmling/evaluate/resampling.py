"""Bootstrap resamples of rows, or of clusters of rows that belong together, as weights of cells of equal rows.

Rows with the same answers share a cell, which is what makes 2,000 resamples of a test cost milliseconds.

Letters: N rows, M cells, U units (what is drawn), E entries (a unit's rows in one cell), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wyrmling.evaluate.statistics import Floats, Ints

# Weights held at once while resampling: 4 million doubles are 32 MB.
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Cells:
    """Rows folded into cells of equal answers, and how they are drawn.

    table_MK  the distinct rows of the folded table
    rows_M    rows in each cell
    times_U   how many units hold the same rows
    unit_E, cell_E, count_E   the rows of each unit; None when every unit is one row, so that a unit is a cell
    """

    table_MK: Ints
    rows_M: Ints
    times_U: Ints
    unit_E: Ints | None = None
    cell_E: Ints | None = None
    count_E: Ints | None = None

    def draw(self, count: int, seed: int) -> Iterator[Floats]:
        """How often each cell occurs in resamples of as many units as there are: chunks (r, M) of `count` rows."""
        if self.unit_E is None or self.cell_E is None or self.count_E is None:
            yield from resamples(self.times_U, count, seed)
            return
        for weights_RU in resamples(self.times_U, count, seed):
            yield sum_by(weights_RU[:, self.unit_E] * self.count_E, self.cell_E, len(self.rows_M))


def fold(table_NK: Ints, cluster_N: Ints | None = None) -> Cells:
    """The cells of a table with a row per test row.

    cluster_N   number of the cluster of each row, from 0. None: every row is its own
    """
    cells_MK, cell_N, rows_M = np.unique(table_NK, axis=0, return_inverse=True, return_counts=True)
    rows_M = rows_M.astype(np.int64)
    if cluster_N is None:
        return Cells(cells_MK, rows_M, rows_M)
    cell_N = cell_N.reshape(-1)
    sizes_G = np.bincount(cluster_N)
    alone_N = sizes_G[cluster_N] == 1
    # Single rows are units by their cell; every larger cluster is a unit of its own.
    single_cells, times = np.unique(cell_N[alone_N], return_counts=True)
    clusters, unit_N = np.unique(cluster_N[~alone_N], return_inverse=True)
    pairs, counts = np.unique(np.stack([unit_N, cell_N[~alone_N]], axis=1), axis=0, return_counts=True)
    return Cells(
        cells_MK,
        rows_M,
        np.concatenate([times, np.ones(len(clusters), dtype=np.int64)]).astype(np.int64),
        np.concatenate([np.arange(len(single_cells)), pairs[:, 0] + len(single_cells)]),
        np.concatenate([single_cells, pairs[:, 1]]),
        np.concatenate([np.ones(len(single_cells), dtype=np.int64), counts]).astype(np.int64),
    )


def of_rows(n: int, cluster_N: Ints | None, count: int, seed: int) -> Iterator[Floats]:
    """How often each of n rows occurs in resamples of them, or of their clusters: chunks (r, n) of `count` rows."""
    return fold(np.arange(n)[:, None], cluster_N).draw(count, seed)


def resamples(rows_M: Ints, count: int, seed: int) -> Iterator[Floats]:
    """How often each cell is drawn in bootstrap resamples of all rows: chunks (r, M) that add up to `count` rows.

    rows_M   rows that fell into each cell
    """
    n, cells = int(rows_M.sum()), len(rows_M)
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // max(cells, 1))
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        if cells * 2 <= n:
            yield generator.multinomial(n, rows_M / n, size=size).astype(np.float64)
            continue
        # With few equal rows, drawing row numbers is ten times faster than a multinomial with a cell for each.
        cell_of_row = np.repeat(np.arange(cells), rows_M)
        weights_RM = np.empty((size, cells))
        for one in weights_RM:
            one[:] = np.bincount(cell_of_row[generator.integers(0, n, n)], minlength=cells)
        yield weights_RM


def sum_by(weights_RM: Floats, group_M: Ints, n_groups: int) -> Floats:
    """Column sums per group, (R, n_groups); columns of group -1 are left out."""
    out = np.zeros((len(weights_RM), n_groups))
    order = np.argsort(group_M, kind="stable")
    order = order[group_M[order] >= 0]
    if len(order):
        present, starts = np.unique(group_M[order], return_index=True)
        out[:, present] = np.add.reduceat(weights_RM[:, order], starts, axis=1)
    return out


def numbered(clusters: list[str | None]) -> Ints | None:
    """Numbers of the clusters named in a column; a row without a name is its own. None when no two rows share one."""
    numbers: dict[str, int] = {}
    found = np.empty(len(clusters), dtype=np.int64)
    fresh = len(clusters)
    for i, name in enumerate(clusters):
        found[i] = fresh + i if name is None else numbers.setdefault(name, len(numbers))
    _, numbered_N = np.unique(found, return_inverse=True)
    return None if len(np.unique(found)) == len(found) else numbered_N.reshape(-1).astype(np.int64)
