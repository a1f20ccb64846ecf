"""The dual bound and CROWN on Wong and Kolter's robust MNIST network (linf, eps 0.1), against the published figures.

Published for the 10,000 test images (Wong and Kolter 2018; Tjeng et al. 2019): clean error 1.80 %, dual bound 5.82 %
not verified, exact adversarial error 4.38 %.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from common import linf_box, margin_rows, print_table

from verifier.bounds.crown import Crown
from verifier.data import load_dataset
from verifier.load import load

PUBLISHED = {"clean error": "1.80 %", "parallel": "5.82 %", "adaptive": "-"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("VERIFIER_DATA", "../shared/data"), "../models/wk17a.pth")
    parser.add_argument("--model", type=Path, default=default, help="the state dict (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1000, help="first N test images (default: %(default)s)")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    graph, data = load(args.model, "conv_small").graph.to(dtype), load_dataset("mnist")
    images, labels = data.images[: args.limit].to(dtype), data.labels[: args.limit]
    batches = list(zip(images.split(args.batch), labels.split(args.batch), strict=True))
    with torch.no_grad():
        right = torch.cat([graph(x).argmax(1) == y for x, y in batches])
        rows: list[tuple[object, ...]] = [("clean error", percent(~right), PUBLISHED["clean error"], "", "", "")]
        for slopes in ("parallel", "adaptive"):
            method, parts, began = Crown(slopes=slopes), [], time.process_time()
            for x, y in batches:
                bounds = method(graph, linf_box(x, args.eps), margin_rows(y, data.classes, dtype))
                parts.append((bounds.lower > 0).all(1))
            spent = time.process_time() - began
            verified = torch.cat(parts)
            assert not (verified & ~right).any(), "a misclassified image was verified"
            count, first = int(verified.sum()), int(verified[:100].sum())
            speed = f"{1000 * spent / len(labels):.1f}"
            name = {"parallel": "not verified, dual bound (parallel)", "adaptive": "not verified, CROWN (adaptive)"}
            rows.append((name[slopes], percent(~verified), PUBLISHED[slopes], count, first, speed))
    print(f"{args.model.name}, first {len(labels)} MNIST test images, linf eps {args.eps}, {args.dtype}")
    print_table(("figure", "measured", "published (10,000)", "verified", "of first 100", "CPU ms / image"), rows)


def percent(mask: torch.Tensor) -> str:
    return f"{100 * mask.float().mean():.2f} %"


if __name__ == "__main__":
    main()
