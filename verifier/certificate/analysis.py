"""Bounds of what a network computes, by weak duality; like `checker.py` it needs only numpy and onnx.

For ANY multipliers s = v slope, and z in [l, u],

    y = W x + b:    s.y = (W^T s).x + s.b
    a = act(z):     v.a >= s.z + sum_j (v_j low_j where v_j >= 0, v_j high_j elsewhere),

where low <= act(z) - slope z <= high; so that pulling a combination of outputs back to the input, op by op, leaves a
lower bound that is linear in the input. In float32 an op computes y + e, |e| <= gamma_{n+2} (|W| |x| + |b|) +
underflow, in any order of summation (Higham 2002, section 3.1); paying |s|.e makes every bound hold for computed values
and for exact ones alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY
    from verifier.certificate.living import Living
    from verifier.certificate.nodes import GREATEST, Array, Node, need
    from verifier.certificate.parts import Parts
    from verifier.certificate.pulling import LARGE32, SMALL32, UNIT32, Domains
    from verifier.certificate.refining import FIRST, PARALLEL
    from verifier.certificate.relaxation import Sides, default_slopes
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY  # type: ignore
    from living import Living  # type: ignore
    from nodes import GREATEST, Array, Node, need  # type: ignore
    from parts import Parts  # type: ignore
    from pulling import LARGE32, SMALL32, UNIT32, Domains  # type: ignore
    from refining import FIRST, PARALLEL  # type: ignore
    from relaxation import Sides, default_slopes  # type: ignore


class Analysis(Parts):
    """How bounds are computed (see Pulling)."""

    def bounds(self, box: Sides, known: Any = None, code: Array | None = None, lemmas: bool = True) -> Domains:
        """All about d regions of inputs in boxes (lower, upper), each (d, inputs).

        known: valid bounds of the inputs of activations, to be improved; else the certificate's lemmas improve them.
        code: of the slopes that regions use.
        """
        d = self.begun(box)
        d.living = Living(d.lower, d.upper) if len(d.empty) == 1 else None
        for j, node in enumerate(self.network.nodes[2:], start=2):
            l, u = node.gather(d.lower), node.gather(d.upper)
            if node.op == "affine":
                l, u = self.affine(j, l, u, d)
            else:
                l, u = (np.broadcast_to(x, (len(box[0]), node.size)).copy() for x in (l, u))
                if known:
                    l, u = np.maximum(l, known[j][0]), np.minimum(u, known[j][1])
                self.refine(j, l, u, d)
                if lemmas and not known:
                    self.prove(j, l, u, d)
                l, u = self.activation(j, l, u, d, code)
            d.lower.append(l)
            d.upper.append(u)
            d.slack = d.slack - TINY * (1 + d.reach(j).sum(axis=1))
        return d

    def affine(self, j: int, l: Array, u: Array, d: Domains) -> Sides:
        """Bounds of what an affine op computes from numbers in [l, u]."""
        node = self.network.nodes[j]
        mass = node.forward(np.maximum(np.abs(l), np.abs(u)), node.magnitude)
        d.constants[j] = low, high = self.constants(node, mass, l, u, d)
        l, u = self.arithmetic.interval(node, l, u, low, high, mass)
        d.prepared[j] = self.arithmetic.plain(low, high, np.maximum(np.abs(l), np.abs(u)))
        return l, u

    def activation(self, j: int, l: Array, u: Array, d: Domains, code: Array | None) -> Sides:
        """Bounds of what an activation computes from inputs in [l, u], and its lines. code: of stated slopes."""
        node, number = self.network.nodes[j], self.network.activations.index(j)
        d.empty |= (l > u).any(axis=1)
        d.z[j], slopes = (l, u), default_slopes(node, l, u, self.single)
        if code is not None:
            self.stated(j, slopes, code, np.arange(node.size))
        d.prepared[j] = self.lines(j, l, u, slopes, d.constants)
        if any(how in (PARALLEL, FIRST) for how in self.hints["refine"][number + 1 :]):
            d.parallel[j] = self.lines(j, l, u, np.stack((slopes[1], slopes[1])), d.constants)
        d.slack = d.slack - TINY * (np.abs(l) + np.abs(u)).sum(axis=1)
        if node.curve is not None:
            d.outside |= node.curve.leaves(l, u).any(axis=1)
            return node.range(l, u, self.single)
        low, high = node.range(l, u, self.single)
        read, made = np.maximum(np.abs(l), np.abs(u)), np.maximum(np.abs(low), np.abs(high))
        need((np.maximum(read, made) < GREATEST).all(), "a value may be too large")
        need(not self.single or (made < LARGE32).all(), "a value may overflow in float32")
        return low, high

    def adopted(self, base: Domains) -> Domains:
        """The same bounds, from another arithmetic, for this one."""
        d = self.begun(base.box)
        d.lower, d.upper, d.z, d.constants, d.slack = base.lower, base.upper, base.z, base.constants, base.slack
        d.empty = base.empty
        for j, own in base.planes.items():
            d.planes[j] = own._replace(prepared=self.arithmetic.plain(own.high, own.high, own.reach))
        for j, node in enumerate(self.network.nodes[2:], start=2):
            if node.op == "affine":
                d.prepared[j] = self.arithmetic.plain(*d.constants[j], d.reach(j))
            else:
                d.prepared[j] = self.lines(j, *d.z[j], default_slopes(node, *d.z[j], self.single), d.constants)
        return d

    def constants(self, node: Node, mass: Array, l: Array, u: Array, d: Domains) -> Sides:
        """The constants of an affine op with all that its result may be off by, where it reads from [l, u].

        mass: |W| |x| at most. What rounding loses when a pull goes on from here to x counts as well. In float32, two
        numbers that differ by nothing, or by their sign, in real arithmetic each err by themselves.
        """
        need(np.isfinite(mass).all(), "a value may overflow")
        error = (node.shape[3] * node.repeats + 4) * self.arithmetic.unit * (mass + TINY)  # of what underflows, too
        if node.deviation is not None:
            error = error + node.forward(np.maximum(np.abs(l), np.abs(u)), node.deviation) * MORE + TINY
        if self.single and node.terms:
            total = mass + np.abs(node.bias)
            mean = node.terms if node.deviation is not None else 1  # its sum comes first
            need((total * mean < LARGE32).all(), "a value may overflow in float32")
            error = error + (node.terms + 2) * (UNIT32 / (1 - (node.terms + 2) * UNIT32) * total * MORE + SMALL32)
        if self.single and node.copies is not None:
            own, other = node.copies
            error = error + np.where(own == other, 0.0, (self.drift(own, d) + self.drift(other, d)) * MORE)
        if not error.any():
            return node.bias, node.bias
        return np.nextafter(node.bias - error * MORE, -math.inf), np.nextafter(node.bias + error * MORE, math.inf)

    def drift(self, ids: Array, d: Domains) -> Array:
        """How far scalars of a dense layer, perhaps with constants added, may be from it on what it reads."""
        j = int(np.searchsorted(self.network.starts, ids.min(), side="right")) - 1
        node, (low, high), columns = self.network.nodes[j], d.constants[j], ids - self.network.starts[j]
        error = (high - low)[:, columns]
        if node.shape[1:] != (1, 1, 1):
            return error
        index = np.arange(node.size) if node.index is None else node.index.ravel()
        return error + self.drift(index[columns] + self.network.starts[node.sources[0]], d)
