"""What a search hands over to be certified: trees of splits, with the multipliers that close their leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

INPUT = -1
Neuron = tuple[int, int]  # the number of an activation, or INPUT, and a position in its flattened tensor


@dataclass(frozen=True, eq=False)
class Leaf:
    """A closed subdomain.

    weights: of the rows of its unsafe set, nonnegative, of any scale; all zero where the multipliers prove that the
    subdomain is empty. slopes: one for each slot of the proof, or None for the checker's own choice. extra: by
    split neuron, what its multiplier has beyond the slope's (beta).
    """

    weights: Sequence[float] = (1.0,)
    slopes: np.ndarray | None = None
    extra: Mapping[Neuron, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Split:
    """A neuron, or an input, cut at a point into the halves below and above.

    weights: in trees that recompute bounds, of rows whose combination cuts off what it proves before the split.
    """

    at: Neuron
    point: float
    below: Tree
    above: Tree
    weights: Sequence[float] = ()


Tree = Leaf | Split


def preorder(tree: Tree) -> Iterator[tuple[Tree, list[Neuron]]]:
    """Every node with the neurons and inputs that are split above it, halves below first."""
    stack: list[tuple[Tree, list[Neuron]]] = [(tree, [])]
    while stack:
        node, path = stack.pop()
        yield node, path
        if isinstance(node, Split):
            stack += [(half, [*path, node.at]) for half in (node.above, node.below)]


def reweighted(tree: Tree, turn: np.ndarray) -> Tree:
    """The same tree about other rows: weights (rows,) become weights @ turn, turn (rows, other rows)."""
    nodes, made = [node for node, _ in preorder(tree)], list[Tree]()
    weights = (np.array([node.weights or [0.0] * len(turn) for node in nodes]) @ turn).tolist()
    for node, own in zip(reversed(nodes), reversed(weights), strict=True):
        if isinstance(node, Split):
            made.append(Split(node.at, node.point, made.pop(), made.pop(), own if node.weights else ()))
        else:
            made.append(Leaf(own, node.slopes, node.extra))
    return made[0]


def pressed(tree: Tree, more: Mapping[Neuron, float]) -> Tree:
    """The same tree with more added to the multipliers of split neurons in every leaf, per unit of its weights."""
    made: list[Tree] = []
    for node, _ in reversed(list(preorder(tree))):
        if isinstance(node, Split):
            made.append(replace(node, below=made.pop(), above=made.pop()))
        else:
            extra = {n: node.extra.get(n, 0.0) + x * sum(node.weights) for n, x in more.items()}
            made.append(replace(node, extra={**node.extra, **extra}))
    return made[0]


@dataclass(frozen=True, eq=False)
class Plane:
    """Planes R.p + r above ReLUs, over what these read (see certificate/planes.py): the R, of which r follows.

    activation: its number. positions: (k,), of its neurons, increasing. sources: by the number of an activation whose
    outputs are read (INPUT: the network's input), rows (m,), places (m,) and shares (m,): which of the k neurons, which
    position of the source, and which part of the neuron's weight there is R; 0 elsewhere.
    """

    activation: int
    positions: np.ndarray
    sources: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Lemma:
    """A bound of what an activation reads at `of`, lower or `upper`; weights of leaves have no meaning here.

    planes: those that its tree may use (see `Proof`).
    """

    of: Neuron
    upper: bool
    tree: Tree
    planes: Sequence[Plane] = ()


@dataclass(frozen=True, eq=False)
class End:
    """A bound of what an activation reads at `of`, lower or `upper`, that holds for all inputs of an unsafe set.

    leaf: the multipliers that prove it. strength: with which the bounded number counts beside them, positive. turn: it
    may rest on ends with a lower one.
    """

    of: Neuron
    upper: bool
    leaf: Leaf
    strength: float
    turn: int


@dataclass(frozen=True)
class Proof:
    """What a search hands over: a tree for every unsafe set, in the order of the property's normal form.

    lemmas: each rests on those about earlier activations. ends: by unsafe set (default: none), in the order of their
    turns; its tree rests on them. slots: what leaves may state numbers of: neurons, and a side. 0 and 1: the slope of
    the line below and above (used where the coefficient is negative); 2: in [0, 1], to which part of the neuron its
    plane takes the place of the line above. planes: by unsafe set (default: none), those which its tree and ends may
    use. refine: whether bounds of activations' inputs are refined by backward passes (default: where intervals are not
    exact); 2: by parallel lines. recompute: by tree (default: for none), whether that is done anew in every part, and
    what linear bounds prove of a part is cut off; worth it for splits of inputs, and then `extra` does not count.
    merge: whether ReLUs that read the same but for the sign are one. scales: exponents of two that the first factors of
    products are scaled by, in the order of the products (default: 0). bounds: by the number of an activation, what the
    search takes for granted of its inputs, (n,) each; no part of the proof, but a rehearsal can rest on it.
    """

    trees: Sequence[Tree]
    lemmas: Sequence[Lemma] = ()
    ends: Sequence[Sequence[End]] = ()
    slots: Sequence[tuple[Neuron, int]] = ()
    refine: Sequence[int] | None = None
    recompute: Sequence[bool] = ()
    merge: bool = False
    scales: Sequence[int] = ()
    planes: Sequence[Sequence[Plane]] = ()
    bounds: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
