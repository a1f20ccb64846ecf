"""The best bound of every subdomain that a few steps of ascent find, from the multipliers that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.search.domain import Domains
from verifier.search.evaluator import Backward, Evaluator, paid
from verifier.search.rows import Rows

BETA1, BETA2, TINY = 0.9, 0.999, 1e-8  # of Adam (Kingma and Ba 2015)
FLOOR = 0.02  # the least weight with which a row enters the ascent, so that it can still gain
COMPACTION = 4  # steps between looks at which subdomains are done


@dataclass(eq=False)
class Patterns(Domains):
    """Subdomains by what their units are bounded to.

    l, u: (n, units). split: (n, units), which were split. multipliers: (n, parameters + 1, units), those of the lines,
    then gamma, signed multipliers of `l <= z <= u` (positive ones press on u). weights: (n, rows), how the rows of the
    unsafe set are combined, nonnegative with sum one.
    """

    l: Tensor
    u: Tensor
    split: Tensor
    multipliers: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Ascent:
    """Projected Adam, upwards. steps, rate, decay: as usual."""

    steps: int
    rate: float = 0.1
    decay: float = 0.97

    def __call__(
        self, evaluator: Evaluator, rows: Rows, domains: Patterns, enough: float, deadline: float
    ) -> tuple[Tensor, Backward, int]:
        """Raise `lower`, but not much above `enough`, keeping the multipliers that did so.

        Returns the positions of subdomains that are still open, their last evaluation, and how many bounds were
        computed.
        """
        state, index, count = _State(evaluator, rows, domains, self), torch.arange(len(domains)), 0
        index = index.to(domains.lower.device)
        for step in range(self.steps + 1):
            back = state.evaluate()
            count += len(index)
            last = step == self.steps or time.monotonic() > deadline
            if last or step % COMPACTION == 0:
                done = state.best.lower > enough
                if last or 4 * int(done.sum()) > len(done):
                    self._store(domains, index, state.best)
                    index, back = index[~done], back.select(~done)
                    if last or not len(index):
                        break
                    state.keep(~done)
            state.move(back, step)
        return index, back, count

    @staticmethod
    def _store(domains: Patterns, index: Tensor, best: Patterns) -> None:
        domains.lower[index] = best.lower
        domains.multipliers[index] = best.multipliers
        domains.weights[index] = best.weights


def bound(evaluator: Evaluator, rows: Rows, domains: Patterns) -> Backward:
    """The bounds under the subdomains' own multipliers."""
    lines = evaluator.units.relaxed(domains.l, domains.u).at(domains.multipliers[:, :-1])
    gamma = domains.multipliers[:, -1]
    c, d = rows.combined(domains.weights, domains.unsafe)
    return evaluator.backward(lines, gamma, paid(gamma, domains.l, domains.u) - d, c)


class _State:
    """Adam's, for the subdomains still open."""

    def __init__(self, evaluator: Evaluator, rows: Rows, domains: Patterns, options: Ascent) -> None:
        self.evaluator, self.rows, self.options = evaluator, rows, options
        self.best = domains.mapped(lambda t: t)
        self.values = domains.multipliers.clone()
        self.mean, self.square = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.combined = domains.weights.shape[1] > 1
        self.logits = domains.weights.clamp(min=FLOOR).log()
        self.logits_mean, self.logits_square = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self.relaxed = evaluator.units.relaxed(domains.l, domains.u)
        self.fresh, self.scale = True, torch.ones_like(self.values[0])

    def keep(self, mask: Tensor) -> None:
        """Go on with some of the subdomains."""
        self.best = self.best.select(mask)
        for name in ("values", "mean", "square", "logits", "logits_mean", "logits_square"):
            setattr(self, name, getattr(self, name)[mask])
        self.relaxed = self.evaluator.units.relaxed(self.best.l, self.best.u)

    def _weights(self) -> Tensor:
        """The inherited weights at first: they must give back the parent's bound."""
        return self.logits.softmax(1) if self.combined and not self.fresh else self.best.weights

    def evaluate(self) -> Backward:
        """The bounds at the present values, kept where they are a subdomain's best."""
        best, gamma, weights = self.best, self.values[:, -1], self._weights()
        c, d = self.rows.combined(weights, best.unsafe)
        costs = paid(gamma, best.l, best.u) - d
        back = self.evaluator.backward(self.relaxed.at(self.values[:, :-1]), gamma, costs, c)
        better = back.bound > best.lower
        best.lower = torch.where(better, back.bound.double(), best.lower)
        best.multipliers = torch.where(better.view(-1, 1, 1), self.values, best.multipliers)
        best.weights = torch.where(better.unsqueeze(1), weights, best.weights)
        return back

    def move(self, back: Backward, number: int) -> None:
        """One step along the gradient."""
        best, gamma = self.best, self.values[:, -1]
        at = self.evaluator.forward(back)
        end = torch.where(gamma > 0, best.u, torch.where(gamma < 0, best.l, torch.clamp(at.z, best.l, best.u)))
        gradient = torch.cat(
            (self.relaxed.gradient(self.values[:, :-1], back.v, at), ((at.z - end) * best.split).unsqueeze(1)), 1
        )
        if self.fresh:  # gamma moves in units of the coefficients that it is added to
            size = back.v.abs().mean(0)
            for b in self.evaluator.units.blocks:
                self.scale[-1, b.part] = size[b.part].mean()
        rate = self.options.rate * self.options.decay**number
        self.values.addcmul_(adam(gradient, self.mean, self.square, number + 1), self.scale, value=rate)
        self.values[:, :-1].clamp_(0, 1)
        if self.combined:
            weights, values = self._weights(), self.rows.values(at.outputs, best.unsafe)
            slope = weights * (values - (weights * values).sum(1, keepdim=True))
            self.logits.add_(adam(slope, self.logits_mean, self.logits_square, number + 1), alpha=rate)
        self.fresh = False


def adam(gradient: Tensor, mean: Tensor, square: Tensor, count: int) -> Tensor:
    """Adam's direction for step `count` >= 1; NaN moves nothing."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    mean.lerp_(gradient, 1 - BETA1)
    square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = (square / (1 - BETA2**count)).sqrt_().add_(TINY)
    return mean.div(denominator).div_(1 - BETA1**count)
