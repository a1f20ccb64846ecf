"""Whole processes on instances of VNN-COMP: wall and CPU seconds from the start of the process to its verdict.

python benchmarks/instances.py FOLDER mnist-net_256x2,prop_6_0.03 ACASXU_run2a_1_1_batch_2000,prop_2 --repeats 3

FOLDER holds instances.csv, or folders that do; an instance is named by its network and its property, without endings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from common import cpu_seconds, print_table, spread

from verifier.batch.competition import Instance, read_instances, stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", metavar="NETWORK,PROPERTY")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=60.0)
    args = parser.parse_args()

    known = {label(instance): instance for instance in read_instances(args.folder)}
    rows = []
    for name in args.names:
        runs = [run(known[name], args.timeout) for _ in range(args.repeats)]
        wall, cpu = [r[0] for r in runs], [r[1] for r in runs]
        words = "/".join(sorted({r[2] for r in runs}))
        rows.append((name, words, spread(wall), spread(cpu)))
    print_table(("instance", "verdict", "wall s, minimum / median", "CPU s, minimum / median"), rows)


def label(instance: Instance) -> str:
    """The network and the property without folders and endings."""
    network, prop = (Path(name).name.removesuffix(".gz") for name in (instance.onnx, instance.vnnlib))
    return f"{network.removesuffix('.onnx')},{prop.removesuffix('.vnnlib')}"


def run(instance: Instance, timeout: float) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds and the first word of one process."""
    files = [str(stored(instance.folder, name)) for name in (instance.onnx, instance.vnnlib)]
    command = [sys.executable, "-m", "verifier", "verify", files[0], "--property", files[1], "--quiet", "--uncertified"]
    began, used = time.perf_counter(), cpu_seconds()
    done = subprocess.run([*command, "--timeout", str(timeout)], capture_output=True, text=True, check=False)
    return time.perf_counter() - began, cpu_seconds() - used, (done.stdout or done.stderr).split(":")[0]


if __name__ == "__main__":
    main()
