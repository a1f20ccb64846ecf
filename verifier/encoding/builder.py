"""A linear program under construction: columns first, then rows over the columns that there are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import ArrayLike

from verifier.program import LinearProgram

Fill = Callable[[list[np.ndarray]], np.ndarray]  # every node's value (flat) -> values of some columns


class Builder:
    """Collects columns, rows and how columns follow from a run of the network.

    size: how many columns there are. fills: indices of columns, and their values as a function of every node's.
    """

    def __init__(self) -> None:
        self.size = 0
        self.fills: list[tuple[np.ndarray, Fill]] = []
        self._lower: list[np.ndarray] = []
        self._upper: list[np.ndarray] = []
        self._binary: list[np.ndarray] = []
        self._rows: list[tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray]] = []

    def add_columns(self, lower: ArrayLike, upper: ArrayLike, fill: Fill, binary: bool = False) -> np.ndarray:
        """Append columns with the given bounds (k,); returns their indices."""
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        index = np.arange(self.size, self.size + len(low))
        self.size += len(low)
        self._lower.append(low)
        self._upper.append(high)
        self._binary.append(np.full(len(low), binary))
        self.fills.append((index, fill))
        return index

    @property
    def row_count(self) -> int:
        """How many rows there are so far."""
        return sum(matrix.shape[0] for matrix, _, _ in self._rows)

    def add_rows(
        self,
        terms: list[tuple[np.ndarray, np.ndarray | float]],
        lower: np.ndarray | float,
        upper: np.ndarray | float,
        forms: scipy.sparse.csr_array | None = None,
    ) -> None:
        """Append rows `lower <= sum of terms + forms <= upper`.

        A term is columns (k,) with one coefficient per row (scalar or (k,)), or with a whole matrix (rows, k).
        """
        blocks = [] if forms is None else [widened(forms, self.size)]
        for columns, coefficients in terms:
            if np.ndim(coefficients) == 2:
                block = np.asarray(coefficients)
                rows, place = np.nonzero(block)
                data, index, count = block[rows, place], columns[place], len(block)
            else:
                rows, index, count = np.arange(len(columns)), columns, len(columns)
                data = np.broadcast_to(np.asarray(coefficients, dtype=np.float64), len(columns))
            blocks.append(scipy.sparse.csr_array((data, (rows, index)), shape=(count, self.size)))
        matrix = sum(blocks[1:], blocks[0])
        sides = (np.broadcast_to(np.asarray(side, dtype=np.float64), matrix.shape[0]) for side in (lower, upper))
        self._rows.append((matrix, *sides))

    def range_of(self, matrix: scipy.sparse.csr_array, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of linear forms from those of the columns."""
        lower, upper = np.concatenate(self._lower), np.concatenate(self._upper)
        matrix = widened(matrix, self.size)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows bounds nothing, and no program takes it
            center, radius = matrix @ ((lower + upper) / 2) + constant, abs(matrix) @ ((upper - lower) / 2)
            return center - radius, center + radius

    def program(self, cost: np.ndarray, offset: float = 0.0) -> LinearProgram:
        """The program so far, with the given cost per column."""
        matrices = [widened(matrix, self.size) for matrix, _, _ in self._rows]
        matrices.append(scipy.sparse.csr_array((0, self.size)))
        return LinearProgram(
            cost=cost,
            lower=np.concatenate(self._lower),
            upper=np.concatenate(self._upper),
            matrix=scipy.sparse.csr_array(scipy.sparse.vstack(matrices)),
            row_lower=np.concatenate([np.zeros(0), *(lower for _, lower, _ in self._rows)]),
            row_upper=np.concatenate([np.zeros(0), *(upper for _, _, upper in self._rows)]),
            integer=np.concatenate(self._binary),
            offset=offset,
        )


def widened(matrix: scipy.sparse.csr_array, columns: int) -> scipy.sparse.csr_array:
    """The same matrix with zero columns appended."""
    parts = (matrix.data, matrix.indices, matrix.indptr)
    return scipy.sparse.csr_array(parts, shape=(matrix.shape[0], columns))
