"""Wall and CPU seconds of one whole `verify` process on a small network, and of its imports, each in a new process."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import cpu_seconds, print_table, spread

MODEL = Path(__file__).parents[1] / "models/digits_mlp.pt"
RUN = "import sys; from verifier.cli.main import main_verify; sys.exit(main_verify())"
IMPORTS = ("torch", "verifier.strategy", "verifier.load", "verifier.cli.main")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--eps", default="0.05")
    parser.add_argument("--target", default="3")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()

    question = (args.model, "--eps", args.eps, "--target", args.target, "--quiet")
    commands: dict[str, Sequence[str]] = {"python alone": ("-c", "pass")}
    commands |= {f"import {name}": ("-c", f"import {name}") for name in IMPORTS}
    commands[f"verify {' '.join(question)}"] = ("-c", RUN, *question)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, command in commands.items():
            began, used = time.perf_counter(), cpu_seconds()
            subprocess.run((sys.executable, *command), stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(cpu_seconds() - used)
    rows = [(name, spread(s), spread(cpu[name])) for name, s in seconds.items()]
    print_table(("process", f"wall s, minimum / median of {args.repeats}", "CPU s"), rows)


if __name__ == "__main__":
    main()
