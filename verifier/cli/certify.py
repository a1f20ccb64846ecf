"""`verifier certify`: how robust is a model on a whole test set?"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import print_json, print_notes, print_table
from verifier.errors import InputError

if TYPE_CHECKING:
    import torch

    from verifier.batch.certify import Certification
    from verifier.batch.records import Run
    from verifier.cli.progress import Progress

DESCRIPTION = "Certify the test split of a data set: how many inputs are proved robust, how many are broken."
EPILOG = "Exit codes: 0 every input is decided, 3 some are not, 2 error, 130 stopped by Ctrl-C."
UNDECIDED = 3
ENGINES = ("local", "ray")
BATCH = 50
FOLDER = "certify_out"


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("certify", help="certify a whole test set", description=DESCRIPTION, epilog=EPILOG)
    options.add_model(parser)
    group = parser.add_argument_group("inputs and property")
    group.add_argument("--dataset", metavar="NAME", help="digits, mnist or FILE.npz (default: that of the model card)")
    group.add_argument("--limit", metavar="N", type=options.count, help="the first N inputs of the data set")
    radii = "radius in data units, such as 0.1 or 8/255, or first:last:step for the curve over eps"
    group.add_argument("--eps", metavar="E", required=True, help=radii)
    group.add_argument("--norm", choices=options.NORMS, default="linf", help="norm of the ball (default: linf)")
    group = parser.add_argument_group("journal")
    group.add_argument("--journal", metavar="FILE", help=f"where results are appended (default: a file in ./{FOLDER})")
    group.add_argument("--resume", action="store_true", help="go on with a journal that exists")
    kept = group.add_mutually_exclusive_group()
    kept.add_argument(
        "--certificates",
        metavar="DIR",
        help="store the certificates there, with the model as ONNX and the properties as VNN-LIB",
    )
    without = "accept bounds without a certificate that the checker has accepted"
    kept.add_argument("--uncertified", action="store_true", help=without)
    again = "with --resume, ask again what was unknown, or error, or both: unknown,error"
    group.add_argument("--retry", metavar="WORDS", type=retried, default=(), help=again)
    group.add_argument("--shard", metavar="I/N", type=shard, default=(1, 1), help="the I-th of N parts of the inputs")
    group = parser.add_argument_group("how")
    group.add_argument("--method", metavar="M", default="auto", help="auto (default), or interval, crown, alpha alone")
    group.add_argument("--timeout", metavar="S", type=options.positive, default=60.0, help="per input (default: 60)")
    group.add_argument(
        "--jobs", metavar="N", type=options.count, help="workers of one thread (default: one per core, one on a GPU)"
    )
    group.add_argument("--engine", choices=ENGINES, default="local", help="this machine (default), or a Ray cluster")
    group.add_argument("--batch", metavar="N", type=options.count, help=f"inputs bounded at once (default: {BATCH})")
    group.add_argument("--memory", metavar="MIB", type=options.count, help="memory that one worker may take")
    group.add_argument("--seed", metavar="N", type=options.natural, default=0, help="seed of the attack (default: 0)")
    options.add_device(group)
    options.add_output(parser)
    parser.set_defaults(run=run)


def shard(text: str) -> tuple[int, int]:
    """`3/8` as (3, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, not '{text}'")
    return part, parts


def retried(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= {"unknown", "error"}:
        raise argparse.ArgumentTypeError(f"must be unknown, error or both with a comma, not '{text}'")
    return words


def run(args: argparse.Namespace) -> int:
    from verifier.batch.startup import startup

    with startup():
        from verifier.batch.certify import Certification, Plan
        from verifier.batch.journal import Journal
        from verifier.batch.tasks import Workplace
        from verifier.cli.progress import Progress
        from verifier.strategy import Settings

        asked = read_run(args)
        device = Settings(device=args.device).torch_device()
    jobs = args.jobs or default_jobs(device)
    memory = None if args.memory is None else args.memory * 2**20
    batch = args.batch or BATCH
    plan = Plan(args.timeout, batch, jobs, memory, args.retry, args.shard)
    path = Path(args.journal or default_journal(asked, args.shard))
    certificates = Path(args.certificates) if args.certificates else None
    workplace = Workplace.of(asked, args.device, args.seed, certificates)
    make_folder(path.parent, "--journal")
    if certificates is not None:
        from verifier.batch.evidence import take_folder

        make_folder(certificates, "--certificates")
        take_folder(certificates, asked)
    with Journal(path, args.resume) as journal:
        work = Certification(asked, plan, journal)
        with Progress(work, args) as progress:
            if journal.repaired:
                progress.say(f"{path}: a torn last line of {journal.repaired} bytes was cut off")
            with interruptible(work, progress):
                for records in work.results(workplace, engine(args.engine)):
                    progress.show(records)
    report(args, work, path)
    if work.stopping:
        print(f"verifier: stopped; go on with: {resumption(args, path)}", file=sys.stderr)
        return options.INTERRUPTED
    return UNDECIDED if work.undecided else 0


def default_jobs(device: torch.device) -> int:
    """A worker for every core that this process may use; one where they would share a GPU."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" else 1


def make_folder(folder: Path, option: str) -> None:
    """Raises InputError where that is impossible: better now than when something is written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be a folder ({error.strerror}); give another {option}") from error


def engine(name: str) -> Any:
    """What hands out the tasks."""
    from verifier.batch import engines, workers

    return workers.serve if name == "local" else engines.ray_serve


@contextmanager
def interruptible(work: Certification, progress: Progress) -> Iterator[None]:
    """The first Ctrl-C lets the workers finish what they are at; the second one stops at once."""

    def answer(*_: object) -> None:
        if work.stopping:
            raise KeyboardInterrupt
        work.stop()
        progress.say("Ctrl-C: finishing what is begun; once more to stop at once")

    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    except KeyboardInterrupt:
        work.stop()
    finally:
        signal.signal(signal.SIGINT, before)


def read_run(args: argparse.Namespace) -> Run:
    """The run that the options describe."""
    from verifier.batch.curve import parse_radii
    from verifier.batch.tasks import describe
    from verifier.data import load_dataset
    from verifier.load import load

    eps = parse_radii(args.eps)
    model = load(args.model, args.arch)
    dataset = args.dataset or (model.card.dataset if model.card else None)
    if dataset is None:
        raise InputError(f"{model.path} has no model card that names a data set: give --dataset")
    data = load_dataset(dataset)
    count = args.limit or len(data)
    return describe(model, data, dataset, args.arch or "", count, eps, args.norm, args.method, not args.uncertified)


def default_journal(asked: Run, part: tuple[int, int]) -> str:
    """A name that tells what the run is about."""
    eps = asked.eps[0] if len(asked.eps) == 1 else f"{asked.eps[0]}to{asked.eps[-1]}"
    names = (Path(asked.model).stem, Path(asked.dataset).stem, asked.norm, eps.replace("/", "over"))
    suffix = "" if part == (1, 1) else f"_{part[0]}of{part[1]}"
    return str(Path(FOLDER, "_".join(names) + suffix + ".jsonl"))


def resumption(args: argparse.Namespace, path: Path) -> str:
    """The command that goes on with this run."""
    words = args.command_line.split(" ", 1)[0], *shlex.split(args.command_line)[1:]
    extra = [] if args.resume else ["--resume"]
    named = [] if args.journal else ["--journal", str(path)]
    return shlex.join([*words, *named, *extra])


def report(args: argparse.Namespace, work: Certification, path: Path) -> None:
    """Print what the run has found."""
    from verifier.batch.merging import Results
    from verifier.report.summary import stage_rows, summary

    total = summary(Results(work.run, work.records), work.plan.indices(work.run.count))
    if args.json:
        print_json({"command": "certify", **total.record(), "files": [str(path)]})
        return
    print(total.sentence())
    if not args.quiet:
        print_table(*total.table())
        print_table(*stage_rows(work.records.values()))
        print_notes([str(path)], ())
