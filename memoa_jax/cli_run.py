"""The commands that run a config: `memoa run`, `memoa sweep` and `memoa tune`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoa_jax.cli_report import after_run, missing
from memoa_jax.console import FAILED, OK, WRONG, fail, load_config, prepare, shown, tell, warn
from memoa_jax.files import LockedError, only_writer
from memoa_jax.progress import SILENT

if TYPE_CHECKING:
    from memoa_jax.config import Config, Study
    from memoa_jax.session import Session


def run_config(parsed: argparse.Namespace) -> int:
    """Run a config and tell its results, after every refusal that costs no time."""
    fault = _resuming(parsed)
    if fault:
        return fail(WRONG, fault)
    config = load_config(parsed, [parsed.kind])
    if config is None:
        return WRONG
    folder = parsed.out or Path("runs") / config.name
    fault = prepare(folder)
    if fault is None and parsed.cache is not None:
        fault = prepare(parsed.cache, "--cache")
    plot = getattr(parsed, "plot", False)
    fault = fault or (missing() if plot else None)
    fault = fault or _start_jax(parsed, config)
    if fault:
        return fail(WRONG, fault)

    import jax

    from memoa_jax.config_faults import ConfigError
    from memoa_jax.run import RunError

    first = jax.process_index() == 0
    say = tell if first else _silent
    if not first:
        parsed.watch = SILENT
    try:
        # What a plug-in prints is no result.
        with only_writer(folder) if first else nullcontext(), redirect_stdout(sys.stderr):
            reader, summary = _carry_out(parsed, config, folder, say)
            parsed.watch.event("saved", folder=str(folder))
    except LockedError as error:
        return fail(WRONG, f"--out {error}")
    except ConfigError as error:
        if getattr(parsed, "debug", False):
            tell("".join(traceback.format_exception(error)))
        return fail(WRONG, *(f"{parsed.config}: {line}" for line in error.faults))
    except RunError as error:
        return fail(FAILED, f"{error}{_then(folder)}")
    except OSError as error:
        return fail(FAILED, f"{folder}: results cannot be written ({error.strerror})")
    if first:
        print(shown(parsed, summary, reader.table), end="")
        after_run(folder, plot=plot)
    say(f"results in {folder}")
    if summary["interrupted"]:
        stop, left = parsed.stop, ", ".join(reader.left(summary))
        return fail(stop.exit_code, f"{stop.word}; not run: {left}{_then(folder)}")
    if reader.lost(summary):
        return fail(FAILED, "no policy kept a finite server output: see the notes of the table")
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
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_sweep import Sweep
    from memoa_jax.config_tune import TuneConfig
    from memoa_jax.run import run
    from memoa_jax.study import run_study
    from memoa_jax.sweep import run_sweep
    from memoa_jax.tune_run import run_tuning

    watch = parsed.watch
    watch.event("start", command=parsed.kind, name=config.name, agents=config.agents)
    if isinstance(config, Sweep):
        return sweep_report, run_sweep(config, folder, say, parsed.fresh, watch=watch)
    session = _session(parsed, config, folder, say)
    if isinstance(config, TuneConfig):
        check = parsed.check_gradients
        return tune_report, run_tuning(config, folder, say, session, check=check, watch=watch)
    if isinstance(config, Study):
        if parsed.debug:
            raise ConfigError(["--debug: allowed in a run of one series, encoder and seed only"])
        return study_report, run_study(config, folder, say, session, watch=watch)
    return report, run(config, folder, say, session, debug=parsed.debug, watch=watch)


def _resuming(parsed: argparse.Namespace) -> str | None:
    """Let --resume stand for the folder, and for the config if none was given; return the fault."""
    folder = getattr(parsed, "resume", None)
    if folder is None:
        return None if parsed.config else "no CONFIG: allowed is a TOML file, or --resume DIR"
    if parsed.out is not None and parsed.out.resolve() != folder.resolve():
        return f"--out {parsed.out} with --resume {folder}: allowed is one of them"
    if parsed.fresh:
        return f"--fresh with --resume {folder}: allowed is one of them"
    if not folder.is_dir():
        return f"--resume {folder}: no such folder"
    parsed.out, parsed.config = folder, parsed.config or str(folder / "config.toml")
    return None


def _session(
    parsed: argparse.Namespace, config: Config | Study, folder: Path, say: Callable[[str], None]
) -> Session:
    """Return what keeps a run, having claimed its folder."""
    import jax
    from jax.experimental import multihost_utils

    from memoa_jax.identity import identity, versions
    from memoa_jax.session import Session

    same = {**identity(config), "versions": versions(), "backend": jax.default_backend()}
    session = Session(folder, same, parsed.checkpoint_every, parsed.stop, say)
    session.warn, session.watch = warn if say is tell else _silent, parsed.watch
    session.claim(resume=parsed.resume is not None, fresh=parsed.fresh)
    if jax.process_count() > 1:  # nobody reads what the first one is still clearing away
        multihost_utils.sync_global_devices("claimed")
    return session


def _then(folder: Path) -> str:
    """Say how to go on, where there is something to go on from."""
    from memoa_jax.session import FOLDER, IDENTITY

    kept = (folder / FOLDER / IDENTITY).exists()
    return f"; go on with --resume {folder}" if kept else ""


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
