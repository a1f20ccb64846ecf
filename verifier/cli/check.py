"""`verifier check`: is a certificate, or a counterexample, what it claims to be?"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.cli import options
from verifier.cli.output import at_least, at_most, print_json
from verifier.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from verifier.spec.vnnlib import Query

DESCRIPTION = (
    "Check a certificate against a model and a property without trusting what wrote it, or replay a counterexample. "
    "The checker of certificates also runs alone, with only numpy and onnx: verifier/certificate/checker.py."
)
EPILOG = "Exit codes: 0 accepted, 1 refused, 2 error."
ACCEPTED, REFUSED = 0, 1


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser(
        "check", help="check a certificate or a counterexample", description=DESCRIPTION, epilog=EPILOG
    )
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("certificate", metavar="CERT", nargs="?", help="a certificate file")
    one.add_argument("--counterexample", metavar="FILE", help="a .npy array, or X and Y as VNN-COMP writes them")
    parser.add_argument("--model", metavar="FILE", required=True, help="the model that it is about")
    parser.add_argument("--arch", metavar="NAME", help="architecture of bare weights without a model card")
    parser.add_argument("--property", metavar="FILE", help="a VNN-LIB file (default: CERT with the ending .vnnlib)")
    parser.add_argument(
        "--arithmetic",
        choices=("auto", "exact", "rounded"),
        default="auto",
        help="exact integers, or outward-rounded float64 with an exact sample (default: exact up to a certain size)",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_counterexample(args) if args.certificate is None else run_certificate(args)


def run_certificate(args: argparse.Namespace) -> int:
    """What was proved, for which execution, about which bytes; or the first reason to refuse."""
    from verifier.certificate.checker import Refused, check
    from verifier.load import load
    from verifier.load.sniff import unzipped

    content = read(args.certificate)
    args.property = args.property or str(Path(args.certificate).with_suffix(".vnnlib"))
    prop, model = unzipped(read(args.property)), load(args.model, args.arch)
    onnx = model.onnx()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in (("model", onnx), ("property", prop))}
    try:
        found = check(content, onnx, prop, args.arithmetic)
    except Refused as error:
        if args.json:
            print_json({"command": "check", "accepted": False, "reason": str(error)})
        else:
            print(f"REFUSED: {args.certificate}: {error}")
        return REFUSED
    if args.json:
        print_json({"command": "check", "accepted": True, **found._asdict(), "sha256": digests})
        return ACCEPTED
    margin = f"the margin is at least {at_least(found.margin)}" if found.margin > 0 else "the margin is above 0"
    print(f"ACCEPTED: {args.model} has what {args.property} states in {found.semantics} arithmetic; {margin}.")
    print(f"checked: {found.leaves} leaves, in {found.arithmetic}")
    if model.stored is None:
        print("model: the certificate is about its export as ONNX, whose bytes are those of an export made just now")
    for name, digest in digests.items():
        print(f"{name} sha256: {digest}")
    return ACCEPTED


def run_counterexample(args: argparse.Namespace) -> int:
    """Replay a counterexample: inside the region, unsafe in float32 and in real arithmetic."""
    from verifier.attack.replay import replay
    from verifier.load import load
    from verifier.spec.vnnlib import read_query

    if args.property is None:
        raise InputError("a counterexample is about a property: give --property FILE")
    model, query = load(args.model, args.arch), read_query(args.property)
    x = read_point(args.counterexample, query).reshape(model.graph.input_shape)
    verdicts = [replay(model.native, model.graph, prop, x) for prop in query.properties(model.graph.input_shape)]
    best = next((v for v in verdicts if v.accepted), verdicts[0])
    if args.json:
        shown = {"inside": best.inside, "float32": best.float32, "real": best.real, "margin": best.margin}
        print_json({"command": "check", "accepted": best.accepted, **shown})
    elif best.accepted:
        where = f"{args.counterexample} lies in the region of {args.property}"
        print(f"ACCEPTED: {where}; {args.model} violates it in float32 and in real arithmetic")
        print(f"margin: {at_most(best.margin)}")
    else:
        print(f"REFUSED: {args.counterexample}: {best.reason}")
    return ACCEPTED if best.accepted else REFUSED


def read(path: str) -> bytes:
    """The content of a file. Raises InputError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_point(path: str, query: Query) -> np.ndarray:
    """The float32 input of a counterexample file. Raises InputError."""
    import numpy as np

    from verifier.cli.inputs import ARRAY_MAGIC, load_array

    content = read(path)
    if content.startswith(ARRAY_MAGIC):
        values = load_array(Path(path)).ravel()
    else:
        found = dict(re.findall(r"\(\s*X_(\d{1,9})\s+([^\s()]+)\s*\)", content.decode("utf-8", "replace")))
        try:
            values = np.array([float(found[str(i)]) for i in range(query.inputs)])
        except (KeyError, ValueError):
            raise InputError(f"{path}: does not give a number to each of X_0 ... X_{query.inputs - 1}") from None
    if values.size != query.inputs or values.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds {values.size} values, {query.name} is about {query.inputs} inputs")
    with np.errstate(over="ignore"):  # infinity is in no region
        return values.astype(np.float32)
