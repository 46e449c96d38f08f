"""The command line `memoa`. JAX is imported where it is needed, after x64 is decided.

Exit codes: 0 done; 1 the run failed for its numbers or its environment, or a statement of
`verify` does not hold; 2 wrong usage, config or file, one line per fault; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from memoa_jax._version import __version__

if TYPE_CHECKING:
    from memoa_jax.config import Config, Study

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

VERIFY_PARTS = (
    "reduction",
    "convergence",
    "exploitability",
    "minimax",
    "anarchy",
    "monte-carlo",
    "regret",
    "games",
    "series",
)
"""What `memoa verify --only` takes: the names of `memoa_jax.verify.PROGRAMME`, without JAX."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
      arguments: words after the program's name; None takes them from the command line.
    """
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        code = command(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; what a run found is in its files by now.
        _discard(sys.stdout)
        return OK
    return code


def _discard(stream: TextIO) -> None:
    """Send a stream whose reader is gone to nowhere: Python flushes it once more at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _tell(line: str) -> None:
    """Write a line to stderr; a reader that is gone does not end the run."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _discard(sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memoa",
        description="Simulate large populations of online prediction agents.",
        epilog="exit codes: 0 done, 1 run failed, 2 wrong usage, config or file, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"memoa {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    _add_runs(commands)
    verify = commands.add_parser("verify", help="check the theory: rates, optima, exact costs")
    _add_results(verify, "runs/verify")
    verify.add_argument(
        "--only",
        metavar="PART",
        action="append",
        choices=VERIFY_PARTS,
        help=f"run one part; may be repeated. Parts: {', '.join(VERIFY_PARTS)}",
    )
    verify.set_defaults(command=_verify)

    validate = commands.add_parser("validate", help="check a config and tell every fault")
    _add_config(validate)
    validate.set_defaults(command=_validate)

    listing = commands.add_parser("list", help="list series, encoders, mixtures and policies")
    listing.set_defaults(command=_list)

    doctor = commands.add_parser("doctor", help="check the installation and the devices")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_runs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that run a config, one per kind."""
    run = commands.add_parser("run", help="run a config's policies, compare them, write results")
    _add_config(run)
    _add_results(run, "runs/NAME")
    _add_cache(run)
    run.add_argument(
        "--distributed",
        metavar="HOST:PORT,COUNT,INDEX",
        help="run as one of COUNT processes, INDEX from 0, that meet at the first one's HOST:PORT; "
        "or auto, where the cluster tells",
    )
    run.set_defaults(command=_run, kind="run")

    sweep = commands.add_parser("sweep", help="run a config at many points and seeds, rank them")
    _add_config(sweep)
    _add_results(sweep, "runs/NAME; what it holds of the same sweep is not run again")
    sweep.add_argument("--fresh", action="store_true", help="start again in that folder")
    _add_cache(sweep)
    sweep.set_defaults(command=_run, kind="sweep", distributed=None)

    tune = commands.add_parser("tune", help="descend on a run's numbers, judge on held-out rows")
    _add_config(tune)
    _add_results(tune, "runs/NAME")
    tune.add_argument(
        "--check-gradients",
        action="store_true",
        help="compare the first gradient with central differences, in float64",
    )
    _add_cache(tune)
    tune.set_defaults(command=_run, kind="tune", distributed=None)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a TOML file")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one key, such as agents=50 or policy.greedy.window=5; tables of a list by "
        "name, kind or number; file names from the working directory; may be repeated",
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="keep compiled programs in this folder: the next run of the same shape starts at once",
    )


def _add_results(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help=f"folder for the results (default: {default})"
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="what to print at the end"
    )


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        _tell(f"memoa: {line}")
    return code


def _load(
    parsed: argparse.Namespace, kinds: Sequence[str] = ("run", "sweep", "tune")
) -> Config | Study | None:
    """Load a config of these kinds, or tell its faults."""
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_file import load
    from memoa_jax.config_kinds import command_of

    try:
        config = load(parsed.config, parsed.overrides)
        kind = command_of(type(config).model_fields)
        if kind not in kinds:
            has = f"no [{kinds[0]}]" if kind == "run" else f"a [{kind}]"
            raise ConfigError([f"{parsed.config}: has {has}; allowed is memoa {kind}"])
        return config
    except ConfigError as error:
        _fail(WRONG, *error.faults)
        return None


def _validate(parsed: argparse.Namespace) -> int:
    config = _load(parsed)
    if config is None:
        return WRONG
    from memoa_jax.config import Study, label
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_sweep import Sweep

    policies = ", ".join(policy.name for policy in config.policy)
    if isinstance(config, Study):
        what = (
            f"{' '.join(map(label, config.series))} x {' '.join(map(label, config.encoder))} x "
            f"seeds {' '.join(map(str, config.all_seeds))}"
        )
    else:
        what = config.series.kind
    if isinstance(config, Sweep):
        from memoa_jax.sweep_plan import plan

        try:
            what += f" x {len(plan(config)):,} runs"
        except ConfigError as error:
            return _fail(WRONG, *(f"{parsed.config}: {line}" for line in error.faults))
    print(f"{parsed.config}: valid: {config.agents:,} agents, {what}, {policies}")
    return OK


def _list(_: argparse.Namespace) -> int:
    from memoa_jax.config import FAMILIES

    titles = {
        "series": "series",
        "encoder": "encoders",
        "mixture": "mixtures",
        "policy": "policies",
        "participation": "participations",
    }
    for family, title in titles.items():
        print(f"{title}:")
        for kind, table in FAMILIES[family].items():
            print(f"  {kind:16} {(table.__doc__ or '').splitlines()[0]}")
    return OK


def _run(parsed: argparse.Namespace) -> int:
    """Run a config and tell its results, after every refusal that costs no time."""
    config = _load(parsed, [parsed.kind])
    if config is None:
        return WRONG
    folder = parsed.out or Path("runs") / config.name
    fault = _prepare(folder)
    if fault is None and parsed.cache is not None:
        fault = _prepare(parsed.cache, "--cache")
    fault = fault or _start_jax(parsed, config)
    if fault:
        return _fail(WRONG, fault)

    import jax

    from memoa_jax.config_faults import ConfigError
    from memoa_jax.run import RunError

    first = jax.process_index() == 0
    say = _tell if first else _silent
    try:
        reader, summary = _carry_out(parsed, config, folder, say)
    except ConfigError as error:
        return _fail(WRONG, *(f"{parsed.config}: {line}" for line in error.faults))
    except RunError as error:
        return _fail(FAILED, str(error))
    except OSError as error:
        return _fail(FAILED, f"{folder}: results cannot be written ({error.strerror})")
    if first:
        print(_shown(parsed, summary, reader.table), end="")
    say(f"results in {folder}")
    if summary["interrupted"]:
        return _fail(INTERRUPTED, f"interrupted; not run: {', '.join(reader.left(summary))}")
    if reader.lost(summary):
        return _fail(FAILED, "no policy kept a finite server output: see the notes of the table")
    return OK


def _start_jax(parsed: argparse.Namespace, config: Config | Study) -> str | None:
    """Set JAX up as the config and the options ask for, before its first use; return the fault."""
    import jax

    if config.dtype == "float64" or (parsed.kind == "tune" and parsed.check_gradients):
        jax.config.update("jax_enable_x64", True)
    if parsed.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(parsed.cache.resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return None if parsed.distributed is None else _join(parsed.distributed)


def _carry_out(
    parsed: argparse.Namespace, config: Config | Study, folder: Path, say: Callable[[str], None]
) -> tuple[Any, dict[str, Any]]:
    """Do what the config asks for; return the module that reads its summary, and the summary."""
    from memoa_jax import report, study_report, sweep_report, tune_report
    from memoa_jax.config import Study
    from memoa_jax.config_sweep import Sweep
    from memoa_jax.config_tune import TuneConfig
    from memoa_jax.run import run
    from memoa_jax.study import run_study
    from memoa_jax.sweep import run_sweep
    from memoa_jax.tune_run import run_tuning

    if isinstance(config, Sweep):
        return sweep_report, run_sweep(config, folder, say, parsed.fresh)
    if isinstance(config, TuneConfig):
        return tune_report, run_tuning(config, folder, say, check=parsed.check_gradients)
    if isinstance(config, Study):
        return study_report, run_study(config, folder, say)
    return report, run(config, folder, say)


def _shown(
    parsed: argparse.Namespace, found: dict[str, Any], table: Callable[[dict[str, Any]], str]
) -> str:
    """Return what to print at the end, as --format asks."""
    from memoa_jax.report import to_json

    return to_json(found) if parsed.format == "json" else table(found) + "\n"


def _silent(_: str) -> None:
    """Say nothing: of several processes the first one speaks."""


def _join(words: str) -> str | None:
    """Join the other processes of a run; return the fault."""
    import jax

    address, *numbers = words.split(",")
    try:
        if words == "auto":
            jax.distributed.initialize()
        else:
            count, index = map(int, numbers)
            if not (0 <= index < count and ":" in address):
                raise ValueError
            jax.distributed.initialize(address, count, index)
    except RuntimeError as error:
        return f"--distributed {words}: {' '.join(str(error).split())[:300]}"
    except ValueError:
        allowed = "allowed is HOST:PORT,COUNT,INDEX with INDEX from 0, or auto on a cluster"
        return f"--distributed {words}: {allowed}"
    return None


def _verify(parsed: argparse.Namespace) -> int:
    folder = parsed.out or Path("runs") / "verify"
    fault = _prepare(folder)
    if fault:
        return _fail(WRONG, fault)

    import jax

    jax.config.update("jax_enable_x64", True)
    from memoa_jax.verify import table, verify

    # In the programme's order, each part once.
    parts = [part for part in VERIFY_PARTS if part in (parsed.only or VERIFY_PARTS)]
    try:
        report = verify(parts, folder, say=_tell)
    except OSError as error:
        return _fail(FAILED, f"{folder}: results cannot be written ({error.strerror})")
    except RuntimeError as error:
        return _fail(FAILED, " ".join(str(error).split()))
    print(_shown(parsed, report, table), end="")
    _tell(f"results in {folder}")
    if report["interrupted"]:
        return _fail(INTERRUPTED, f"interrupted; not run: {', '.join(report['not_run'])}")
    failed = [one["name"] for one in report["statements"] if one["holds"] is False]
    if failed:
        return _fail(FAILED, f"does not hold: {'; '.join(failed)}")
    return OK


def _prepare(folder: Path, option: str = "--out") -> str | None:
    """Make the folder and try to write in it, before any time is spent; return the fault."""
    probe = folder / f".memoa.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        return f"{option} {folder}: a file stands in the way; give a folder"
    except (OSError, ValueError) as error:
        return f"{option} {folder}: cannot be written ({getattr(error, 'strerror', None) or error})"
    return None


def _doctor(_: argparse.Namespace) -> int:
    """Print one line per check; the first word is ok or BAD."""
    failures = 0
    from memoa_jax.doctor import examine

    for good, line in examine():
        failures += not good
        print(f"{'ok ' if good else 'BAD'} {line}", flush=True)
    return FAILED if failures else OK
