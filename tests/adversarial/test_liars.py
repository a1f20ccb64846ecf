"""A lying producer: certificates of the search, changed in every way, prove no false claim and crash no checker."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from claims import Claim, Victim
from forgery import FORGERIES, SHAPES, STRANGE, about, forged, packed
from victims import victims

from verifier.certificate import checker
from verifier.certificate.checker import Refused, Unproved
from verifier.certificate.claim import Certificate
from verifier.certificate.trees import TYPES

SAMPLE, MANY = 1000, 100_000
CHAINS, STEPS = 20, 12  # of lies each of which is a change of the best so far; MANY are so many steps as lies
ARITHMETICS = ("rounded", "exact", "auto")
USED = ("rounded",) * 6 + ("exact", "auto")  # exact arithmetic takes twice the time


def check(content: bytes, model: bytes, statement: bytes, number: int) -> bool:
    """Whether it is accepted; anything but Refused that is raised fails the test."""
    return proved(content, model, statement, USED[number % len(USED)], number % 2)[0] == math.inf


def proved(content: bytes, model: bytes, statement: bytes, arithmetic: str, sample: int = 0) -> tuple[float, str]:
    """What the worst leaf proves, infinite where all is accepted, NaN where there is another fault; the semantics."""
    try:
        return math.inf, checker.check(content, model, statement, arithmetic, sample).semantics
    except Unproved as error:
        return error.bound, ""
    except Refused:
        return math.nan, ""


def told(content: bytes, claim: Claim, arithmetic: str, number: int) -> float:
    """What a lie proves; fails where it is believed."""
    bound, semantics = proved(content, claim.model, claim.statement, arithmetic, number % 2)
    believed = bound == math.inf and (semantics.startswith("float32") or not claim.single)
    assert not believed, f"{number}: {claim.about}"
    return bound


def lie(number: int) -> None:
    """Forgery `number`: of a victim's certificate, or another's, about a false claim of the victim."""
    draw, all_victims = np.random.default_rng(number), list(victims().values())
    target = all_victims[number % len(all_victims)]
    source = all_victims[int(draw.integers(len(all_victims)))] if draw.random() < 0.2 else target
    claim = target.false[int(draw.integers(len(target.false)))]
    told(forged(draw, source, claim), claim, USED[number % len(USED)], number)


def climb(number: int, steps: int) -> float:
    """So many forgeries, each of the best one so far: of those that prove most. Returns by how much more they do."""
    draw, all_victims = np.random.default_rng([number, 1]), list(victims().values())
    target = all_victims[number % len(all_victims)]
    claim = target.false[int(draw.integers(len(target.false)))]
    best, arithmetic = target, USED[number % len(USED)]
    first = most = told(packed(about(best.parts[0], claim.model, claim.statement), best.parts[1]), claim, arithmetic, 0)
    for _ in range(steps):
        content = forged(draw, best, claim)
        bound = told(content, claim, arithmetic, 0)
        if bound >= most:
            most, best = bound, replace(best, certificate=replace(best.certificate, content=content))
    return most - first


def test_no_lie_is_accepted() -> None:
    for number in range(SAMPLE):
        lie(number)


def test_no_lie_that_learns_is_accepted() -> None:
    """What the checker says of a lie tells how to lie better."""
    assert sum(climb(number, STEPS) > 0 for number in range(CHAINS)) > CHAINS // 4


@pytest.mark.long
def test_no_lie_of_many_is_accepted() -> None:
    for number in range(SAMPLE, SAMPLE + MANY // 2):
        lie(number)


@pytest.mark.long
def test_no_lie_of_many_that_learn_is_accepted() -> None:
    for number in range(CHAINS, CHAINS + MANY // 2 // 100):
        climb(number, 100)


def test_every_certificate_of_the_search_is_about_splits_of_another_kind() -> None:
    """Split inputs with bounds anew, merged neurons, several rows, split neurons with planes and lemmas, windows."""
    found = {name: victim.parts for name, victim in victims().items()}
    assert all(checker.check(v.certificate.content, *files(v), "rounded").leaves for v in victims().values())
    assert found["halved-0"][0]["recompute"] == [1] and len(found["halved-0"][1]["kind.0"]) > 3
    assert found["mirrored-0"][0]["merge"] == 1
    assert found["conjoined-0"][1]["weights.0"].shape[1] == 2 and found["conjoined-0"][1]["weights.0"].all()
    header, arrays = found["split-22"]
    assert header["recompute"] == [0] and arrays["kind.0"].max() > 2 and arrays["share.p0"].any()
    assert arrays["kind.a1"].max() > 1 and arrays["finer"].size and arrays["extra.a1"].any()
    assert any(found["convolved-1"][0]["refine"])
    assert {name.split(".")[0] for _, arrays in found.values() for name, array in arrays.items() if array.size} == {
        *TYPES
    }


def files(victim: Victim) -> tuple[bytes, bytes]:
    certificate: Certificate = victim.certificate
    return certificate.model, certificate.statement


def test_a_change_weakens_a_true_claim_or_does_nothing() -> None:
    """Some of the changes are refused even about the claim that is true, and none of them crashes."""
    answers: dict[str, Counter[bool]] = {name: Counter() for name in FORGERIES}
    for number, victim in enumerate(victims().values()):
        for name, forge in FORGERIES.items():
            draw, (header, arrays) = np.random.default_rng(number), victim.parts
            forge(draw, header, arrays)
            answers[name][check(packed(header, arrays), *files(victim), 0)] += 1
    assert not answers["nothing"][False] and sum(count[False] > 0 for count in answers.values()) >= 10


def test_a_lie_is_refused_for_its_bound_and_not_for_its_hash() -> None:
    """With nothing changed but the hashes, each false claim fails at a leaf."""
    for victim in victims().values():
        for claim in victim.false:
            header, arrays = victim.parts
            header["semantics"] = "float32" if claim.single else header["semantics"]
            content = packed(about(header, claim.model, claim.statement), arrays)
            for arithmetic in ARITHMETICS:
                with pytest.raises(Refused, match=r"is not proved|overflow"):
                    checker.check(content, claim.model, claim.statement, arithmetic)


def test_a_certificate_without_leaves_proves_nothing() -> None:
    for victim in victims().values():
        for claim in victim.false:
            header, arrays = victim.parts
            empty = {name: array[:0] if name.split(".")[0] in SHAPES else array for name, array in arrays.items()}
            for recompute in (0, 1):
                content = packed({**about(header, claim.model, claim.statement), "recompute": [recompute]}, empty)
                assert not check(content, claim.model, claim.statement, 0)


def test_each_strange_number_in_each_place() -> None:
    """One after the other, in a certificate of split neurons about a claim that is false by little."""
    victim = victims()["split-22"]
    claim, (header, arrays) = victim.false[0], victim.parts
    for name in ("point.0", "point.a1", "extra.a1"):
        for i in np.linspace(0, arrays[name].size - 1, 5).astype(int):
            for number in STRANGE:
                copies = {**arrays, name: arrays[name].copy()}
                with np.errstate(over="ignore"):
                    copies[name].flat[i] = number
                content = packed(about(header, claim.model, claim.statement), copies)
                assert not check(content, claim.model, claim.statement, 0)
