"""What a search needs to know about a kind of split."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from verifier.search.domain import Domains
from verifier.search.record import Cut, Record

D = TypeVar("D", bound=Domains)


class Splitting(Protocol[D]):
    """A kind of split: what its subdomains hold, how they are bounded and halved.

    enough: a margin bound above this proves a subdomain. evaluations: bounds computed so far, one for each subdomain
    and step. record: of the splits, where one is kept.
    """

    enough: float
    evaluations: int
    record: Record | None

    def root(self) -> D:
        """The whole region, once for every unsafe set, not bounded yet (`lower` is -inf)."""

    def bound(self, domains: D, deadline: float) -> tuple[D, Tensor]:
        """The subdomains with `lower` raised to the best bound found by the time.monotonic() `deadline`.

        The result may hold more subdomains than were given (one may be cut into several), never other inputs. With
        them come inputs (k, *input_shape) of the region at which the margin may be low; k may be 0.
        """

    def splittable(self, domains: D) -> Tensor:
        """A mask of the subdomains that can still be split."""

    def split(self, domains: D) -> tuple[D, Cut]:
        """The halves of n splittable subdomains, each with `lower` of the whole, first all below the cut."""

    def keep(self, closed: D) -> None:
        """Take down what proved these subdomains, where a record is kept."""

    def close(self, leaf: D, deadline: float) -> tuple[float, Tensor | None]:
        """The bound of one subdomain that cannot be split, and an input (1, *input_shape) to judge if that fails."""
