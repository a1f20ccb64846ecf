"""`verifier certify` as a whole: time and memory against the number of inputs and of workers, and what each stage took.

python benchmarks/certify.py models/mnist_conv_pgd.pt --eps 0.02 --limits 250 500 1000 --jobs 1 2 --tile 250

On a busy machine CPU seconds grow as well, and where processes share caches: a loop of fixed work, in as many processes
at once as there are workers, before and after each run, tells by how much.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import print_table

from verifier.batch.merging import read_all
from verifier.data import load_dataset
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
    again = "the first N inputs over and over, so that every number of them is as hard (needs --dataset)"
    parser.add_argument("--tile", type=int, metavar="N", help=again)
    args = parser.parse_args()
    if args.tile:
        with tempfile.TemporaryDirectory() as folder:
            args.dataset = str(tiled(args.dataset, args.tile, max(args.limits), Path(folder, "tiled.npz")))
            run(args)
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    """Measure all runs, and print the tables."""
    named = [x for name in ("arch", "dataset") if (value := getattr(args, name)) for x in (f"--{name}", value)]
    rows, stages = [], None
    for jobs in args.jobs:
        for limit in args.limits:
            with tempfile.TemporaryDirectory() as folder:
                journal = Path(folder, "a.jsonl")
                size = ["--limit", str(limit), "--jobs", str(jobs), "--timeout", args.timeout, "--eps", args.eps]
                argv = ["certify", args.model, *named, *size, "--journal", str(journal), "--json"]
                before = fixed_work(jobs)
                wall, cpu, peaks, out = measured(argv)
                loops = cpu / ((before + fixed_work(jobs)) / 2)
                [results] = read_all([journal]).values()
            total, stages = summary(results), stage_rows(results.records.values())
            undecided = json.loads(out)["undecided"]
            counts = (total.points[0].verified, total.points[0].falsified, undecided)
            per = (f"{1000 * wall / limit:.1f}", f"{1000 * cpu / limit:.1f}")
            rows.append((jobs, limit, *counts, f"{wall:.1f}", f"{cpu:.1f}", *per, f"{loops:.1f}", *peaks))
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
        "loops",
    )
    print_table((*head, "parent MiB", "worker MiB"), rows)
    if stages is not None:
        print_table(*stages)


def tiled(dataset: str, count: int, most: int, path: Path) -> Path:
    """A data set of `most` inputs at least: the first `count` of another one again and again."""
    data = load_dataset(dataset)
    times = -(-most // count)
    images, labels = data.images[:count].repeat(times, *[1] * len(data.shape)), data.labels[:count].repeat(times)
    np.savez(path, images=images.numpy(), labels=labels.numpy(), classes=data.classes)
    return path


def fixed_work(jobs: int) -> float:
    """The CPU seconds that each of so many processes at once takes for a loop of fixed work, its start apart."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) for _ in range(jobs)]
    return sum(float(loop.communicate()[0]) for loop in loops) / jobs


LOOP = """
import time, torch
torch.set_num_threads(1)
a, b = torch.rand(400, 400, dtype=torch.float64), torch.rand(2_000_000)
began = time.process_time()
for _ in range(40):
    (a @ a).sum(), torch.relu(b - 0.5).sum()
sum(i * i for i in range(600_000))
print(time.process_time() - began)
"""


def measured(argv: list[str]) -> tuple[float, float, tuple[int, int], str]:
    """Wall seconds, CPU seconds of all processes, the peak memory of the parent and of the largest worker in MiB,
    and the output."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", MEASURED, *argv], stdout=subprocess.PIPE, text=True)
    wall = time.monotonic() - began
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)
    out, usage = done.stdout.rstrip().rsplit("\n", 1)
    cpu, parent, workers = json.loads(usage)
    return wall, cpu, (parent // 1024, workers // 1024), out


MEASURED = """
import json, resource, sys
from verifier.cli.main import main
code = main(sys.argv[1:])
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([sum(u.ru_utime + u.ru_stime for u in used), *(u.ru_maxrss for u in used)]))
sys.exit(code)
"""

if __name__ == "__main__":
    main()
