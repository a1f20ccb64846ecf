"""The automatic cascade on the first images of a data set: which stage decides, how long, how many subdomains.

python benchmarks/search.py models/mnist_mlp.pt --eps 0.02 --limit 20 --timeout 10
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from common import print_table

from verifier.data import load_dataset
from verifier.load import load
from verifier.spec.robustness import local_robustness
from verifier.strategy import Settings, verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--arch")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--eps", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=10.0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, data = load(args.model, args.arch), load_dataset(args.dataset)
    rows, verdicts = [], Counter()
    for index in range(min(args.limit, len(data))):
        x, label = data.images[index].numpy(), int(data.labels[index])
        prop = local_robustness(x, label, args.eps, classes=data.classes, lower=data.lower, upper=data.upper)
        result = verify(model, prop, Settings(timeout=args.timeout))
        verdicts[result.verdict.name] += 1
        remark = "; ".join(str(s.search) for s in result.stages if s.search is not None)
        rows.append((index, result.label, result.stage, f"{result.seconds:.2f}", f"{result.proved:.4g}", remark))
    print_table(("index", "verdict", "stage", "wall s", "margin >=", "branch and bound"), rows)
    print(", ".join(f"{name} {count}" for name, count in verdicts.items()))


if __name__ == "__main__":
    main()
