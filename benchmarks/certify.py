"""`verifier certify` as a whole: time and memory against the number of inputs and of workers, and what each stage took.

python benchmarks/certify.py models/mnist_conv_pgd.pt --eps 0.02 --limits 250 500 1000 --jobs 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import print_table

from verifier.batch.merging import read_all
from verifier.report.summary import stage_rows, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--arch")
    parser.add_argument("--dataset")
    parser.add_argument("--eps", required=True)
    parser.add_argument("--timeout", default="60")
    parser.add_argument("--limits", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1])
    args = parser.parse_args()

    named = [x for name in ("arch", "dataset") if (value := getattr(args, name)) for x in (f"--{name}", value)]
    rows, stages = [], None
    for jobs in args.jobs:
        for limit in args.limits:
            with tempfile.TemporaryDirectory() as folder:
                journal = Path(folder, "a.jsonl")
                size = ["--limit", str(limit), "--jobs", str(jobs), "--timeout", args.timeout, "--eps", args.eps]
                argv = ["certify", args.model, *named, *size, "--journal", str(journal), "--json"]
                wall, cpu, peak, out = measured([sys.executable, "-m", "verifier", *argv])
                [results] = read_all([journal]).values()
            total, stages = summary(results), stage_rows(results.records.values())
            undecided = json.loads(out)["undecided"]
            counts = (total.points[0].verified, total.points[0].falsified, undecided)
            per = (f"{1000 * wall / limit:.1f}", f"{1000 * cpu / limit:.1f}")
            rows.append((jobs, limit, *counts, f"{wall:.1f}", f"{cpu:.1f}", *per, peak))
    head = (
        "workers",
        "inputs",
        "proved",
        "broken",
        "undecided",
        "wall s",
        "CPU s",
        "wall ms / input",
        "CPU ms / input",
    )
    print_table((*head, "largest process MiB"), rows)
    if stages is not None:
        print_table(*stages)


def measured(argv: list[str]) -> tuple[float, float, int, str]:
    """Wall seconds, CPU seconds of all processes, the peak memory of the largest so far in MiB, and the output."""
    began, before = time.monotonic(), os.times()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return time.monotonic() - began, cpu, peak, done.stdout


if __name__ == "__main__":
    main()
