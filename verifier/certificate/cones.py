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
Columns = dict[int, Array]  # by node, positions (places, size) of its values


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
        nodes = [replace(n, chosen=places) if len(n.weight.array) > 1 else n for n in self.nodes]
        return replace(self, nodes=nodes)


def cones(network: Network, j: int) -> list[Cone] | None:
    """The cones of all inputs of activation j; None where they are not much cheaper than the whole network."""
    if j not in network.cones:
        network.cones[j] = _cones(network, j)
    found: list[Cone] | None = network.cones[j]
    return found


def _cones(network: Network, j: int) -> list[Cone] | None:
    top = network.alone.get(j, 0) if network.nodes[network.alone.get(j, 0)].shape[:2] == (1, 1) else 0
    whole = sum(math.prod(n.shape) + MOVING * reads_of(n) for i, n in enumerate(network.nodes[:j]) if i != top)
    made = list[Cone]()
    for places in windows(network, j):
        # One in the middle tells of most kinds that they are too costly.
        for some in (places[len(places) // 2 :][:1], places):
            alike = dependencies(network, j, some, min(whole, GAIN * LARGEST) // GAIN)
            if alike is None:
                return None
        for columns in alike or ():
            made += [cone for own in of_same_ops(network, columns) for cone in of_equal_weights(network, j, own)]
    return made if len(made) <= KINDS else None


def of_same_ops(network: Network, columns: Columns) -> Iterator[Columns]:
    """The places at which activations read what is below them in the same order."""
    below = [seen(network, columns, i)[0] for i in columns if i > 1 and network.nodes[i].op != "affine"]
    kinds = np.concatenate([at.reshape(len(at), -1) for at in below], axis=1)
    which = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()
    for kind in range(which.max() + 1):
        yield {i: own[which == kind] for i, own in columns.items()}


def of_equal_weights(network: Network, j: int, columns: Columns) -> list[Cone]:
    """Cones at places with the same ops: one for places with the same weights, unless few have the same."""
    count = len(columns[j])
    weights = {i: dense(network, columns, i) for i in columns if network.nodes[i].op == "affine"}
    kinds: dict[tuple[bytes, ...], list[int]] = {}
    for k in range(count):
        kinds.setdefault(tuple(array[k].tobytes() for array in weights.values()), []).append(k)
    groups = [*kinds.values()] if FEW * len(kinds) <= min(count, KINDS) else [[*range(count)]]
    return [joined(network, j, *({i: x[own] for i, x in of.items()} for of in (columns, weights))) for own in groups]


def joined(network: Network, j: int, columns: Columns, weights: dict[int, Array]) -> Cone:
    """One cone of activation j for several places. weights: by affine node, (places, K, N)."""
    nodes = [network.nodes[0]] * (j + 1)
    for i, own in columns.items():
        node, size = network.nodes[i], own.shape[1]
        if i == 1:
            nodes[1] = Node("input", size)
            continue
        at, _, width = seen(network, columns, i)
        nodes[i] = small = Node(node.op, size, [source for source in node.sources if source in columns], width)
        if node.op == "affine":
            stacked = weights[i] if (weights[i] != weights[i][:1]).any() else weights[i][:1]
            small.shape, small.bias, small.weight = (1, 1, width, size), np.zeros((1, size)), Weight(stacked)
        else:
            small.parameters, small.breaks, small.slopes = node.parameters, node.breaks, node.slopes
            small.index = None if np.array_equal(at[0, :, 0], np.arange(width)) else at[0, :, 0]
    return Cone(nodes, columns, network.alone, shared(nodes))


def shared(nodes: list[Node]) -> set[int]:
    """The numbers of nodes that several read."""
    counts = Counter(i for node in nodes for i in node.sources)
    return {i for i, count in counts.items() if count > 1}


def windows(network: Network, j: int) -> Iterator[Array]:
    """Positions (places, size) of activation j by what their values are made from: one window, or places of elementwise
    ops on it; those of one size together.

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
    parts = np.split(order, np.nonzero(np.diff(window[order]))[0] + 1)
    for count in sorted({len(part) for part in parts}):
        yield np.stack([part for part in parts if len(part) == count])


def reads(node: Node, columns: Array) -> Array:
    """What the values of a node at `columns` are computed from, (*columns, K), as positions in its joined sources."""
    if node.op != "affine":
        return (columns if node.index is None else node.index.ravel()[columns])[..., None]
    _, _, K, N = node.shape
    index = np.arange(node.width) if node.index is None else node.index
    return index.reshape(-1, K)[columns // N]


def dependencies(network: Network, j: int, places: Array, most: int) -> list[Columns] | None:
    """Positions on which activation j depends at positions (places, size) of its own, for places that depend on equally
    many; None if some sum reads a value twice, or there are more than `most` weights between them.
    """
    done, todo = list[Columns](), [(j, {j: [places]}, Columns(), 0)]
    while todo:
        i, found, columns, weights = todo.pop()
        if i == 0:
            done.append(columns)
            continue
        if i not in found:
            todo.append((i - 1, found, columns, weights))
            continue
        read = below(network, i, found.pop(i))
        if read is None:
            return None
        counts = np.stack([kept.sum(axis=1) for _, kept in read.values()])
        which = np.unique(counts, axis=1, return_inverse=True)[1].ravel()
        for kind in range(which.max() + 1):
            some = np.flatnonzero(which == kind)
            widths = dict(zip(read, counts[:, some[0]].tolist(), strict=True))
            picked = {k: x[some][kept[some]].reshape(len(some), widths[k]) for k, (x, kept) in read.items()}
            left = {k: [x[some] for x in parts] for k, parts in found.items()}
            for k in picked:
                if k < i and picked[k].size:
                    left[k] = [*left.get(k, []), picked[k]]
            readers = (k for k in columns if network.nodes[k].op == "affine" and i in network.nodes[k].sources)
            total = weights + picked[i].shape[1] * sum(columns[k].shape[1] for k in readers)
            if total > most:
                return None
            todo.append((i - 1, left, {i: picked[i]} | {k: x[some] for k, x in columns.items()}, total))
    return done


def below(network: Network, i: int, parts: list[Array]) -> dict[int, tuple[Array, Array]] | None:
    """Positions of node i in any of some arrays (places, k), and of the nodes that they are computed from, each with a
    mask of those that count; None if some sum reads a value twice.
    """
    node, own = network.nodes[i], parts[0]
    kept = np.full(own.shape, True)
    if len(parts) > 1:
        own = np.sort(np.concatenate(parts, axis=1), axis=1)
        kept = firsts(own)
    found = {i: (own, kept)}
    if i == 1:
        return found
    each = np.sort(reads(node, own), axis=2)
    zero = node.sources[0] == 0  # then the first is the constant zero, which may be read by sums, and often
    twice = (each[..., 1:] == each[..., :-1]) & (each[..., 1:] >= zero)
    if (each < zero).any() > (node.op == "affine") or twice.any():
        return None
    read, begin = each.reshape(len(each), -1), 0
    if node.op == "affine":
        read = np.sort(read, axis=1)
        kept = firsts(read)
    for source in node.sources:
        end = begin + network.nodes[source].size
        if source > 0:
            found[source] = (read - begin, kept & (read >= begin) & (read < end))
        begin = end
    return found


def firsts(values: Array) -> Array:
    """A mask of the values (places, k), in increasing order, that do not repeat the one before."""
    return np.concatenate((np.full((len(values), 1), True), values[:, 1:] > values[:, :-1]), axis=1)


def reads_of(node: Node) -> int:
    """How many numbers a node moves about."""
    return 0 if node.index is None else node.index.size


def seen(network: Network, columns: Columns, i: int) -> tuple[Array, Array, int]:
    """What values of node i (places, size) read, (places, size, K), by its place in what is seen of the node's joined
    sources; a mask of what is seen there, as the constant zero is not; and how much is seen.
    """
    node = network.nodes[i]
    begins = np.cumsum([0, *(network.nodes[source].size for source in node.sources)])
    parts = [begins[node.sources.index(source)] + columns[source] for source in node.sources if source in columns]
    places = np.concatenate((*parts, np.full((len(columns[i]), 1), begins[-1])), axis=1)  # the last is read by none
    order, apart = np.argsort(places, axis=1), np.arange(len(places))[:, None] * (begins[-1] + 1)
    sorted_places = (np.take_along_axis(places, order, axis=1) + apart).ravel()
    read = reads(node, columns[i]) + apart[..., None]
    at = np.searchsorted(sorted_places, read)
    return order.ravel()[at], sorted_places[at] == read, places.shape[1] - 1


def dense(network: Network, columns: Columns, i: int) -> Array:
    """The weights (places, width, size) of an affine node."""
    node, own = network.nodes[i], columns[i]
    _, P, _, N = node.shape
    at, known, width = seen(network, columns, i)
    weights = node.weight.array[own // (P * N), :, own % N]  # (places, size, K)
    matrix = np.zeros((len(own), width, own.shape[1]))
    where, column, _ = np.nonzero(known)
    matrix[where, at[known], column] = weights[known]
    return matrix
