"""What certificates cost: the search, writing with its check, checking alone in both arithmetics, and bytes.

python benchmarks/certificates.py --vnncomp FOLDER acasxu/onnx/NET.onnx.gz:acasxu/vnnlib/prop_5.vnnlib.gz
python benchmarks/certificates.py --vnncomp FOLDER models/mnist_conv_pgd.pt:0:0.02

An instance is a network and a VNN-LIB file of the folder, or a model, the index of an MNIST image, and eps. Leaves are
those of the property's trees and of the lemmas' trees, and bounds that hold for unsafe inputs. Seconds are CPU seconds
of one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import print_table

from verifier.certificate.checker import check
from verifier.certificate.claim import certificate
from verifier.certificate.pricing import price
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import LEAF, unpack
from verifier.data import load_dataset
from verifier.errors import CertificateError
from verifier.load import Model, load
from verifier.load.sniff import unzipped
from verifier.spec.property import Property
from verifier.spec.robustness import local_robustness
from verifier.spec.vnnlib import read_query
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

HEADERS = ("instance", "search s", "writing s", "checking s", "share", "leaves", "ms a leaf", "exact ms a leaf",
           "bytes a leaf", "claim")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="+", metavar="NET:PROPERTY|MODEL:INDEX:EPS")
    parser.add_argument(
        "--vnncomp", default="../shared/benchmarks/vnncomp", help="the folder of networks and properties"
    )
    parser.add_argument("--arch", help="architecture of bare weights")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--exact", action="store_true", help="check in exact arithmetic as well")
    args = parser.parse_args()

    torch.set_num_threads(1)
    print_table(HEADERS, [row(args, instance) for instance in args.instances])


def row(args: argparse.Namespace, instance: str) -> list[object]:
    """One line of the table."""
    model, prop, statement = read(args, instance)
    onnx, asked = model.onnx(), [0.0]

    def priced(*about: Any) -> float:
        asked.append(price(onnx, *about))
        return asked[-1]

    searching, result = timed(lambda: verify(model, prop, Settings(timeout=args.timeout, proof=True, price=priced)))
    name = ":".join(Path(part).name.split(".onnx")[0] if "/" in part else part for part in instance.split(":"))
    start: list[object] = [name, f"{searching:.2f}"]
    if result.verdict is not Verdict.VERIFIED or result.proof is None:
        return [*start, *[""] * 7, result.verdict.name]
    proof, doubtful, deadline = result.proof, not result.proved > max(asked), time.monotonic() + args.timeout
    try:
        writing, made = timed(lambda: certificate(onnx, statement, [(prop, proof)], deadline, doubtful))
    except CertificateError as error:
        return [*start, *[""] * 7, str(error)[:60]]
    checking, _ = timed(lambda: check(made.content, onnx, statement, "rounded", 0))
    arrays = unpack(made.content)
    leaves = sum(int((array == LEAF).sum()) for name, array in arrays.items() if name.startswith("kind."))
    leaves += sum(len(array) for name, array in arrays.items() if name.startswith("code.s"))
    exact = ""
    if args.exact:
        exact = f"{timed(lambda: check(made.content, onnx, statement, 'exact'))[0] * 1e3 / leaves:.2f}"
    figures = [
        f"{writing:.2f}",
        f"{checking:.2f}",
        f"{writing / searching:.0%}",
        leaves,
        f"{checking * 1e3 / leaves:.2f}",
    ]
    return [*start, *figures, exact, f"{len(made.content) / leaves:.1f}", made.accepted.semantics.split(" ")[0]]


def read(args: argparse.Namespace, instance: str) -> tuple[Model, Property, bytes]:
    """The network, the property, and the text that states it."""
    first, *rest = instance.split(":")
    if len(rest) == 1:
        folder = Path(args.vnncomp)
        model, file = load(str(folder / first), None), folder / rest[0]
        [prop] = read_query(str(file)).properties(model.graph.input_shape)
        return model, prop, unzipped(file.read_bytes())
    model, data = load(first, args.arch), load_dataset("mnist")
    x, label = data.images[int(rest[0])].numpy(), int(data.labels[int(rest[0])])
    prop = local_robustness(x, label, rest[1], classes=data.classes, lower=data.lower, upper=data.upper)
    return model, prop, vnnlib(prop).encode()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what was returned."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
