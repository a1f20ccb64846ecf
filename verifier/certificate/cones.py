"""What a window of a convolution sees of a network, as a small dense network of its own.

One part of the stand-alone checker; like `checker.py` it needs only numpy and onnx. Pulling a neuron back through a
convolution touches the few values that it depends on; windows that see the same ops are treated together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

if __package__:
    from verifier.certificate.nodes import Array, Node, Weight
    from verifier.certificate.reading import Network
else:  # run as a file, with the others beside it
    from nodes import Array, Node, Weight  # type: ignore
    from reading import Network  # type: ignore

GAIN, LARGEST = 4, 1 << 18  # how much cheaper a cone must be than the network, and how many weights it may have
MOVING = 16  # how many products of a dense layer take as long as moving one number about
KINDS, FEW = 64, 4  # of cones, at most; how many places must share one, on average, for weights of its own
Restriction = tuple[dict[int, Node], dict[int, Array]]  # nodes at one place, and their positions


@dataclass(frozen=True, eq=False)
class Cone:
    """Nodes restricted to what the values of one of them depend on, at several places where the ops are the same.

    nodes: as those of the network; of those that are not needed, the zeroes. Weights that are not the same everywhere
    are (places, K, N). columns: by node, the positions (places, size) that its restriction stands for. alone: as of the
    network. shared: those that several nodes read.
    """

    nodes: list[Node]
    columns: dict[int, Array]
    alone: dict[int, int]
    shared: set[int]

    def at(self, places: Array) -> Cone:
        """For regions (m,), each at one of the places."""
        nodes = [replace(n, chosen=places) if n.weights and len(n.weights[0].array) > 1 else n for n in self.nodes]
        return replace(self, nodes=nodes)


def cones(network: Network, j: int) -> list[Cone] | None:
    """The cones of all inputs of activation j; None where they are not much cheaper than the whole network."""
    if j not in network.cones:
        network.cones[j] = _cones(network, j)
    found: list[Cone] | None = network.cones[j]
    return found


def _cones(network: Network, j: int) -> list[Cone] | None:
    alike: dict[tuple[bytes, ...], list[Restriction]] = {}
    whole = sum(math.prod(node.shape) + MOVING * reads_of(node) for node in network.nodes[:j])
    for window in windows(network, j):
        columns = needed(network, j, window)
        if columns is None or GAIN * cost(network, columns) > min(whole, GAIN * LARGEST):
            return None
        nodes = restricted(network, columns)
        key = tuple(part for node in nodes.values() for part in signature(node))
        alike.setdefault(key, []).append((nodes, columns))
    kinds = [kind for places in alike.values() for kind in of_equal_weights(places)]
    return [joined(network, j, places) for places in kinds] if len(kinds) <= KINDS else None


def of_equal_weights(places: list[Restriction]) -> list[list[Restriction]]:
    """Restrictions with the same ops by their weights, unless few have the same."""
    kinds: dict[tuple[bytes, ...], list[Restriction]] = {}
    for nodes, columns in places:
        key = tuple(weight.array.tobytes() for node in nodes.values() for weight in node.weights)
        kinds.setdefault(key, []).append((nodes, columns))
    return list(kinds.values()) if FEW * len(kinds) <= min(len(places), KINDS) else [places]


def joined(network: Network, j: int, places: list[Restriction]) -> Cone:
    """One cone of activation j for several places: the nodes that each sees, and their positions."""
    for i, node in places[0][0].items():
        if node.op == "affine":
            stacked = np.concatenate([nodes[i].weights[0].array for nodes, _ in places])
            node.weights = [Weight(stacked if (stacked != stacked[:1]).any() else stacked[:1])]
    nodes = [places[0][0].get(i, network.nodes[0]) for i in range(j + 1)]
    columns = {i: np.stack([columns[i] for _, columns in places]) for i in places[0][1]}
    return Cone(nodes, columns, network.alone, shared(nodes))


def shared(nodes: list[Node]) -> set[int]:
    """The numbers of nodes that several read."""
    counts = Counter(i for node in nodes for i in node.sources)
    return {i for i, count in counts.items() if count > 1}


def windows(network: Network, j: int) -> Iterator[Array]:
    """Positions of activation j by what their values are made from: one window, or places of elementwise ops on it.

    What a dense layer computes has no windows: such values are taken one by one.
    """
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
    dense = network.nodes[node].shape[:2] == (1, 1)
    window = at if dense else at // network.nodes[node].shape[3]
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


def reads_of(node: Node) -> int:
    """How many numbers a node moves about."""
    return 0 if node.index is None else node.index.size


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
        seen, read = np.concatenate((np.zeros(0, np.int64), *offsets)), reads(node, own)
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
    """What tells a restricted node from another one, but for weights."""
    yield repr((node.op, node.sources, node.size, node.width)).encode()
    yield b"" if node.index is None else node.index.tobytes()
