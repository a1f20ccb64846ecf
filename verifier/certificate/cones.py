"""What a window of a convolution sees of a network, as a small dense network of its own.

One part of the stand-alone checker; like `checker.py` it needs only numpy and onnx. Pulling a neuron back through a
convolution touches the few values that it depends on; windows that see equal weights are treated together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

if __package__:
    from verifier.certificate.nodes import Array, Node, Weight
    from verifier.certificate.reading import Network
else:  # run as a file, with the others beside it
    from nodes import Array, Node, Weight  # type: ignore
    from reading import Network  # type: ignore

GAIN, LARGEST = 4, 1 << 18  # how much cheaper a cone must be than the network, and how many weights it may have
KINDS = 64  # of cones, for more of which few places share one


@dataclass(frozen=True, eq=False)
class Cone:
    """Nodes restricted to what the values of one of them depend on, at several places where the weights are equal.

    nodes: as those of the network; of those that are not needed, the zeroes. columns: by node, the positions (places,
    size) that its restriction stands for. alone: as of the network. shared: those that several nodes read.
    """

    nodes: list[Node]
    columns: dict[int, Array]
    alone: dict[int, int]
    shared: set[int]


def cones(network: Network, j: int) -> list[Cone] | None:
    """The cones of all inputs of activation j; None where they are not much cheaper than the whole network."""
    if j not in network.cones:
        network.cones[j] = _cones(network, j)
    found: list[Cone] | None = network.cones[j]
    return found


def _cones(network: Network, j: int) -> list[Cone] | None:
    kinds: dict[tuple[bytes, ...], tuple[list[Node], list[dict[int, Array]]]] = {}
    whole = sum(math.prod(node.shape) for node in network.nodes[:j])
    for window in windows(network, j):
        columns = needed(network, j, window)
        if columns is None or GAIN * cost(network, columns) > min(whole, GAIN * LARGEST):
            return None
        nodes = restricted(network, columns)
        key = tuple(part for node in nodes.values() for part in signature(node))
        every = [nodes.get(i, network.nodes[0]) for i in range(j + 1)]
        kinds.setdefault(key, (every, []))[1].append(columns)
        if len(kinds) > KINDS:
            return None
    return [
        Cone(nodes, {i: np.stack([columns[i] for columns in places]) for i in places[0]}, network.alone, shared(nodes))
        for nodes, places in kinds.values()
    ]


def shared(nodes: list[Node]) -> set[int]:
    """The numbers of nodes that several read."""
    counts = Counter(i for node in nodes for i in node.sources)
    return {i for i, count in counts.items() if count > 1}


def windows(network: Network, j: int) -> Iterator[Array]:
    """Positions of activation j by what their values are made from: one window, or places of elementwise ops on it."""
    size = network.nodes[j].size
    node, at = j, np.arange(size)
    while network.nodes[node].op != "affine" or network.nodes[node].shape[3] == 1:
        first = reads(network.nodes[node], at)[:, 0]
        sources = network.nodes[node].sources
        ends = np.cumsum([network.nodes[i].size for i in sources])
        which = np.searchsorted(ends, first, side="right")
        if (node != j and network.nodes[node].op != "affine") or which.max() > which.min():
            break
        node, at = sources[which[0]], first - (ends[which[0]] - network.nodes[sources[which[0]]].size)
        if node < 2:
            break
    window = at // network.nodes[node].shape[3]
    order = np.argsort(window, kind="stable")
    yield from np.split(order, np.nonzero(np.diff(window[order]))[0] + 1)


def reads(node: Node, columns: Array) -> Array:
    """What the values of a node at `columns` are computed from, (columns, K), as positions in its joined sources."""
    if node.op != "affine":
        return (columns if node.index is None else node.index.ravel()[columns])[:, None]
    _, _, K, N = node.shape
    index = np.arange(node.width) if node.index is None else node.index
    return index.reshape(-1, K)[columns // N]


def needed(network: Network, j: int, window: Array) -> dict[int, Array] | None:
    """By node, the positions on which activation j depends at `window`; None if some sum reads a value twice."""
    found: dict[int, list[Array]] = {j: [window]}
    columns: dict[int, Array] = {}
    for i in range(j, 0, -1):
        if i not in found:
            continue
        node, columns[i] = network.nodes[i], distinct(found[i])
        if i == 1:
            continue
        each, begin = np.sort(reads(node, columns[i]), axis=1), 0
        zero = node.sources[0] == 0  # then the first is the constant zero, which may be read by sums, and often
        if (each < zero).any() > (node.op == "affine") or ((each[:, 1:] == each[:, :-1]) & (each[:, 1:] >= zero)).any():
            return None
        read = each.ravel() if node.op != "affine" else np.unique(each)
        for source in node.sources:
            end = begin + network.nodes[source].size
            some = read[(read >= begin) & (read < end)] - begin
            if source > 0 and len(some):
                found.setdefault(source, []).append(some)
            begin = end
    return columns


def distinct(positions: list[Array]) -> Array:
    """The positions that nodes read, in the order of the only one, so that it need not move them about."""
    return positions[0] if len(positions) == 1 else np.unique(np.concatenate(positions))


def cost(network: Network, columns: dict[int, Array]) -> int:
    """How many weights the affine nodes have that are restricted to columns."""
    total = 0
    for i, own in columns.items():
        node = network.nodes[i]
        if node.op == "affine":
            total += len(own) * sum(len(columns.get(source, ())) for source in node.sources)
    return total


def restricted(network: Network, columns: dict[int, Array]) -> dict[int, Node]:
    """The nodes at these columns."""
    made: dict[int, Node] = {}
    for i, own in sorted(columns.items()):
        node = network.nodes[i]
        if i == 1:
            made[1] = Node("input", len(own))
            continue
        sources = [source for source in node.sources if source in columns]
        begins = np.cumsum([0, *(network.nodes[source].size for source in node.sources)])
        offsets = [begins[node.sources.index(source)] + columns[source] for source in sources]
        seen, read = np.concatenate(offsets), reads(node, own)
        order = np.argsort(seen)
        place = np.append(order, 0)[np.searchsorted(seen, read, sorter=order)]
        made[i] = small = Node(node.op, len(own), sources, len(seen))
        if node.op == "affine":
            small.shape, small.bias = (1, 1, len(seen), len(own)), np.zeros((1, len(own)))
            small.weights = [Weight(dense(node, own, place, seen, read))]
        else:
            small.parameters, small.breaks, small.slopes = node.parameters, node.breaks, node.slopes
            small.index = None if np.array_equal(place[:, 0], np.arange(len(seen))) else place[:, 0]
    return made


def dense(node: Node, own: Array, place: Array, seen: Array, read: Array) -> Array:
    """The weights (1, seen, own) of an affine node. What is not seen is the constant zero."""
    _, P, _, N = node.shape
    weights = node.weights[0].array[own // (P * N), :, own % N]  # (own, K)
    known = seen[place] == read if len(seen) else np.zeros(read.shape, dtype=bool)
    matrix = np.zeros((1, len(seen), len(own)))
    at = np.broadcast_to(np.arange(len(own))[:, None], read.shape)
    matrix[0, place[known], at[known]] = weights[known]
    return matrix


def signature(node: Node) -> Iterator[bytes]:
    """What tells a restricted node from another one."""
    yield repr((node.op, node.sources, node.size, node.width)).encode()
    for array in (node.index, *(weight.array for weight in node.weights)):
        yield b"" if array is None else array.tobytes()
