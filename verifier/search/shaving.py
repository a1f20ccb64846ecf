"""Ends of units' ranges that bounds prove harmless, cut off before the search splits anything.

Only inputs of the unsafe set matter. There, `margin + gamma z >= L` with gamma > 0 says `z >= L / gamma`, and with
gamma < 0 an upper bound: the output constraint tightens hidden bounds (Kotha et al. 2023), which tighten the margin.
Integer programming knows it as shaving (Martin and Shmoys 1996): below that value of z, the margin is proved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.search.ascent import Patterns, adam, bound
from verifier.search.domain import outward
from verifier.search.evaluator import Evaluator, paid
from verifier.search.rows import Rows

CHUNK = 1 << 17  # of what ends that are moved together, times units, come to
LITTLE, FEW = 0.01, 1 / 32  # of a range; of the ends that are moved together
SURE = 1e-9  # of a range, what rounding may do to the end that is found


class Ends(NamedTuple):
    """Ends of ranges, each (n,): the upper end of `unit` of a `domain` where `sign` is -1, else the lower one."""

    domain: Tensor
    unit: Tensor
    sign: Tensor

    def place(self, values: Tensor) -> Tensor:
        """The entry (n,) of each end's own unit, of values (n, units)."""
        return values.gather(1, self.unit.unsqueeze(1)).squeeze(1)

    def pressed(self, gamma: Tensor, strength: Tensor) -> Tensor:
        """Multipliers gamma (n, units) with those of the ends' own units replaced."""
        return gamma.scatter(1, self.unit.unsqueeze(1), (self.sign * strength).unsqueeze(1))


Keep = Callable[[Patterns, Ends, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Shaving:
    """Projected Adam on the slopes and on the logarithm of gamma, for every end of every undecided unit.

    steps, rate, decay: as in the search's ascent. growth: the rate of the logarithm.
    """

    steps: int = 20
    rate: float = 0.1
    growth: float = 0.3
    decay: float = 0.95

    @torch.no_grad()
    def __call__(
        self,
        fast: Evaluator,
        exact: Evaluator,
        rows: Rows,
        domains: Patterns,
        enough: float,
        deadline: float,
        keep: Keep | None = None,
    ) -> int:
        """Narrow `l` and `u` of subdomains whose slopes are good already; returns how many bounds were computed.

        keep: called with the subdomains as they were, ends that move, the parameters of lines and the strengths that
        move them, and whereto.

        Looks in the precision of `fast`; an end moves by what `exact` confirms. Where both ends of a unit would pass
        each other, the multipliers that move one of them prove what the other leaves. The last layers come first, which
        gain first; a subdomain of which few ends move is left, and all of them where it is the first ends that do not.
        """
        units, quick = fast.units, rows.to(domains.l.dtype)
        left = units.unstable(domains.l, domains.u).flip(1).nonzero()
        left[:, 1] = len(units) - 1 - left[:, 1]
        strength = self._strength(fast, quick, domains)
        count, worthwhile, low, high = 0, False, domains.l.clone(), domains.u.clone()
        size = max(CHUNK // (2 * len(units)), 32) if len(left) else 0
        while len(left) and time.monotonic() < deadline:
            part, left = left[:size], left[size:]
            domain, unit = part.repeat(2, 1).unbind(1)
            sign = torch.ones_like(strength[domain, unit])
            sign[len(part) :] = -1
            ends = Ends(domain, unit, sign)
            slopes, pressure = self._moved(fast, quick, domains, ends, strength[domain, unit], enough)
            found = self._confirmed(exact, rows, domains, ends, slopes, pressure, enough)
            count += (self.steps + 2) * len(domain)
            crossed = found[: len(part)] > -found[len(part) :]
            moved = self._noticeable(domains, ends, found) | crossed.repeat(2)
            found = torch.where(moved, found, -math.inf)
            if keep is not None:
                keep(domains, Ends(*(one[moved] for one in ends)), slopes[moved], pressure[moved], found[moved])
            self._cut(domains, ends, found, low, high, slopes, pressure)
            pays = int(moved.sum()) >= FEW * len(domain)
            worthwhile |= pays
            if not pays:
                left = left[left[:, 0] > part[-1, 0]] if worthwhile else left[:0]
        domains.l, domains.u = low, high
        return count

    def _strength(self, evaluator: Evaluator, rows: Rows, domains: Patterns) -> Tensor:
        """Where gamma starts, (n, units): the mean size of the coefficients in a unit's layer."""
        size = bound(evaluator, rows, domains).v.abs()
        for b in evaluator.units.blocks:
            size[:, b.part] = size[:, b.part].mean(1, keepdim=True)
        return size.clamp(min=torch.finfo(size.dtype).eps)

    def _moved(
        self, evaluator: Evaluator, rows: Rows, domains: Patterns, ends: Ends, strength: Tensor, enough: float
    ) -> tuple[Tensor, Tensor]:
        """The slopes (n, parameters, units) and strengths (n,) that move the ends furthest."""
        l, u = domains.l[ends.domain], domains.u[ends.domain]
        relaxed, log = evaluator.units.relaxed(l, u), strength.log()
        c, d = rows.combined(domains.weights[ends.domain], domains.unsafe[ends.domain])
        values, gamma = domains.multipliers[ends.domain, :-1], domains.multipliers[ends.domain, -1]
        gamma = ends.pressed(gamma, torch.zeros_like(log))
        cost = paid(gamma, l, u) - d
        furthest, best = torch.full_like(log, -math.inf), (values.clone(), strength)
        moments = [torch.zeros_like(t) for t in (values, values, log, log)]
        for step in range(self.steps + 1):
            strength = log.exp()
            back = evaluator.backward(relaxed.at(values), ends.pressed(gamma, strength), cost, c)
            end = (back.bound - enough) / strength
            better = end > furthest
            furthest = torch.where(better, end, furthest)
            best = (torch.where(better.view(-1, 1, 1), values, best[0]), torch.where(better, strength, best[1]))
            if step < self.steps:
                at = evaluator.forward(back)
                rate, margin = self.decay**step, back.bound - strength * ends.sign * ends.place(at.z) - enough
                slope = adam(relaxed.gradient(values, back.v, at), moments[0], moments[1], step + 1)
                values = torch.add(values, slope, alpha=self.rate * rate).clamp_(0, 1)
                log = log + self.growth * rate * adam(-margin / strength, moments[2], moments[3], step + 1)
        return best

    def _confirmed(
        self,
        evaluator: Evaluator,
        rows: Rows,
        domains: Patterns,
        ends: Ends,
        slopes: Tensor,
        strength: Tensor,
        enough: float,
    ) -> Tensor:
        """What the exact evaluator proves of `sign * z` (n,): beyond it, the margin is above `enough`."""
        dtype = rows.d.dtype
        l, u = domains.l[ends.domain].to(dtype), domains.u[ends.domain].to(dtype)
        weights = domains.weights[ends.domain].to(dtype)
        c, d = rows.combined(weights / weights.sum(1, keepdim=True), domains.unsafe[ends.domain])
        strength, ends = strength.to(dtype), ends._replace(sign=ends.sign.to(dtype))
        gamma = ends.pressed(domains.multipliers[ends.domain, -1].to(dtype), torch.zeros_like(strength))
        lines = evaluator.units.relaxed(l, u).at(slopes.to(dtype))
        back = evaluator.backward(lines, ends.pressed(gamma, strength), paid(gamma, l, u) - d, c)
        end = (back.bound - enough) / strength - SURE * ends.place(u - l)
        return torch.where(end < math.inf, end, -math.inf)  # what overflows proves nothing

    @staticmethod
    def _noticeable(domains: Patterns, ends: Ends, found: Tensor) -> Tensor:
        """A mask (n,) of ends that are moved by more than a little."""
        l, u = (side[ends.domain, ends.unit] for side in (domains.l, domains.u))
        return found - torch.where(ends.sign > 0, l, -u) > LITTLE * (u - l)

    def _cut(
        self,
        domains: Patterns,
        ends: Ends,
        found: Tensor,
        low: Tensor,
        high: Tensor,
        slopes: Tensor,
        strength: Tensor,
    ) -> None:
        """Move the ends in `low` and `high`, rounded outward; a subdomain with ends that cross becomes a proved one."""
        half = len(found) // 2
        domain, unit = ends.domain[:half], ends.unit[:half]
        least, most = outward(found[:half], -math.inf), -outward(found[half:], -math.inf)
        crossed = least > most
        least, most = (
            torch.where(crossed, old, new) for old, new in ((low[domain, unit], least), (high[domain, unit], most))
        )
        low[domain, unit] = torch.maximum(low[domain, unit], least)
        high[domain, unit] = torch.minimum(high[domain, unit], most)
        proved = {int(domain[i]): i for i in crossed.nonzero().squeeze(1).tolist()}  # one unit is enough
        for k, i in proved.items():
            j = int(unit[i])
            domains.multipliers[k, :-1] = slopes[half + i]
            domains.multipliers[k, -1, j] = -strength[half + i]
            domains.split[k, j] = True
            low[k, j] = outward(found[i : i + 1], -math.inf)[0]
            high[k, j] = torch.maximum(high[k, j], low[k, j])
