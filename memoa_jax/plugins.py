"""Plug-ins: a user's own encoder, policy, series or mixture, found by its name.

    package.module:function     a module beside the config, or one that Python finds
    name                        what an installed package registers (an entry point)

The function returns an object that keeps the contract of `memoa_jax.types` (`memoa_jax.contracts`
holds it to that). Naming a plug-in runs its code, when a config is checked as when it is run: its
module is imported, with what it imports, under the rights of whoever calls. Neither JAX nor the
config layer is imported here.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from memoa_jax.files import file_hash

GROUPS = {
    "encoder": "memoa_jax.encoders",
    "policy": "memoa_jax.policies",
    "series": "memoa_jax.series",
    "mixture": "memoa_jax.mixtures",
}
"""The entry-point groups in which an installed package registers plug-ins, by a config's table."""
FULL_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class PluginError(ValueError):
    """A plug-in that cannot be found, or fails, in one line."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was found: what the config calls it, its function, and where that stands.

    `files` are the sources that were loaded for it; `version` is that of the installed package
    it comes with, None for a module beside the config, in `folder`.
    """

    name: str
    function: Callable[..., Any]
    files: tuple[Path, ...]
    version: str | None
    folder: str | None

    def __call__(self, **arguments: Any) -> Any:
        """Call the function, with the folder on the import path.

        Raises:
          PluginError: if it raises anything.
        """
        with speaking(self.files, short(self.name)), _on_path(self.folder):
            return self.function(**arguments)

    def digest(self) -> str:
        """Return the SHA-256 of its sources as they were imported, in the order of their names."""
        hashes = [
            f"{path.name} {_imported_as.get(path) or file_hash(path)}"
            for path in self.files
            if path.is_file()
        ]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


_beside: dict[str, Path] = {}
"""The modules that were found beside a config, by their top-level names, and in which folder."""
_imported_as: dict[Path, str] = {}
"""The sources of those modules, and their SHA-256 when they were imported."""


def is_full(kind: Any) -> bool:
    """Tell whether a kind is meant as "package.module:function", well written or not.

    Example:
      >>> is_full("my_encoder:gru"), is_full("echo_state")
      (True, False)
    """
    return isinstance(kind, str) and ":" in kind


def short(kind: str) -> str:
    """Return what a plug-in is called where it is given no name: its function's.

    Example:
      >>> short("my_package.my_module:my_encoder")
      'my_encoder'
    """
    return re.split(r"[:.]", kind)[-1]


def registered(family: str) -> dict[str, list[EntryPoint]]:
    """Return the plug-ins that installed packages register for a table, by their short names."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUPS[family]):
        points = found.setdefault(point.name, [])
        if point not in points:  # one package, found in two places
            points.append(point)
    return found


def package_of(point: EntryPoint) -> str:
    """Return the package that registers an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"


def find(kind: str, family: str, folder: str | None = None) -> Plugin:
    """Import a plug-in and return it.

    Args:
      kind: its full name, or the short one of an entry point.
      family: the table it is for: "encoder", "policy", "series" or "mixture".
      folder: of a module beside the config; it is on the import path for the look-up only.

    Raises:
      PluginError: if it is not there, fails to import, or is no function; named, in one line.
    """
    points = registered(family).get(kind, []) if not is_full(kind) else []
    if len(points) > 1:
        names = ", ".join(f"{point.value} ({package_of(point)})" for point in points)
        raise PluginError(f"registered by several packages; allowed is one of {names}")
    name = points[0].value if points else kind
    if not FULL_NAME.fullmatch(name):
        allowed = "allowed is package.module:function"
        raise PluginError(f"{allowed}, the names joined by dots and one colon")
    module_name, _, attribute = name.partition(":")
    module = _module(module_name, folder)
    function: Any = module
    for part in attribute.split("."):
        if not hasattr(function, part):
            known = [key for key, value in vars(module).items() if _is_candidate(value, module)]
            raise PluginError(f"module {module_name} has no {attribute}{_nearest(part, known)}")
        function = getattr(function, part)
    if not callable(function):
        found = f"{attribute} is {type(function).__name__}"
        raise PluginError(f"{found}: allowed is a function that returns the {family}")
    local = folder if _beside.get(module_name.partition(".")[0]) == _path(folder) else None
    files = _sources(module, local)
    return Plugin(kind, function, files, _version(module_name, points, local), local)


def forget_changed() -> None:
    """Forget the modules beside configs once a source of theirs has changed.

    Whoever edits a plug-in and loads the config again, in the same process, means what the file
    says now. Between two loads an edit changes nothing: a run is of one version from end to end.
    """
    changed = (not x.is_file() or file_hash(x) != before for x, before in _imported_as.items())
    if any(changed):
        _forget(list(_beside))


def beside(kind: str, folder: Path) -> bool:
    """Tell whether a plug-in's module stands in a folder."""
    top = kind.partition(":")[0].partition(".")[0]
    if not top.isidentifier():
        return False
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


@contextlib.contextmanager
def speaking(files: Sequence[Path], what: str) -> Iterator[None]:
    """Turn whatever a plug-in raises into one line: `what` failed, why, and in which line.

    What it prints meanwhile goes to stderr: stdout is for results.

    Raises:
      PluginError: with the message of what was raised, which is its cause.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} raised {one_line(error, files)}") from error


def one_line(error: BaseException, files: Sequence[Path]) -> str:
    """Return an error's name and message, and the last line of a plug-in's files it came through.

    Example:
      >>> one_line(ValueError("too  large"), [])
      'ValueError: too large'
    """
    said = " ".join(str(error).split())
    said = f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:  # its message has the line already
        return said
    names = {str(path) for path in files}
    lines = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in names
    ]
    return f"{said} ({lines[-1]})" if lines else said


def _module(name: str, folder: str | None) -> ModuleType:
    """Import a module, one beside the config before any other."""
    local = folder is not None and beside(name, Path(folder))
    if local:
        assert folder is not None
        _make_room(name.partition(".")[0], Path(folder))
    try:
        with _on_path(folder if local else None), contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise PluginError(f"no module {error.name}{_looked(error.name, folder)}") from None
        raise PluginError(f"importing {name} raised {one_line(error, _outside(error))}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"importing {name} raised {one_line(error, _outside(error))}") from error


def _outside(error: BaseException) -> list[Path]:
    """Return the file that was being imported: the first one outside of the import machinery."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = (__file__, str(importlib.__file__))
    return [Path(file) for file in files if not file.startswith("<") and file not in own][:1]


@contextlib.contextmanager
def _on_path(folder: str | None) -> Iterator[None]:
    """Put a folder on the import path, and leave no compiled files in it."""
    if folder is None:
        yield
        return
    importlib.invalidate_caches()
    written = sys.dont_write_bytecode
    # A cached file of the same second and size would be taken for the source.
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = written
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            for path in _files(sys.modules[name]):
                if _stands_in(Path(folder), top, path):
                    _beside[top] = Path(folder)
                    _imported_as[path] = file_hash(path)


def _make_room(top: str, folder: Path) -> None:
    """Forget modules of this name that were found beside another config; refuse to hide others."""
    if _beside.get(top) == folder:
        return
    if top in _beside:
        _forget([one for one, place in _beside.items() if place == _beside[top]])
    here = any(_stands_in(folder, top, path) for path in _files(sys.modules.get(top)))
    if top in sys.stdlib_module_names or (top in sys.modules and not here):
        found = f"{top} beside the config has the name of a module that is in use already"
        raise PluginError(f"{found}; give it a name of its own")
    _beside[top] = folder


def _forget(tops: Sequence[str]) -> None:
    """Have modules beside a config imported anew when they are next asked for."""
    for top in tops:
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            for path in _files(sys.modules[name]):
                _imported_as.pop(path, None)
            del sys.modules[name]
        _beside.pop(top, None)


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def _files(module: ModuleType | None) -> list[Path]:
    file = getattr(module, "__file__", None)
    return [Path(file)] if file else []


def _stands_in(folder: Path, top: str, path: Path) -> bool:
    """Tell whether a module's file is of a folder itself: not of an environment kept in it."""
    return path == folder / f"{top}.py" or folder / top in path.parents


def _sources(module: ModuleType, folder: str | None) -> tuple[Path, ...]:
    """Return the source of a plug-in's module, and of what it imports that stands beside it.

    Read from the files: what happens to be loaded depends on who else was imported. Of an
    installed package it is the module alone; the package's version says the rest.
    """
    if folder is None:
        return tuple(_files(module))
    found: set[Path] = set()
    waiting = [module.__name__.partition(".")[0]]
    while waiting:
        top = waiting.pop()
        single = Path(folder) / f"{top}.py"
        for path in [single] if single.is_file() else sorted((Path(folder) / top).rglob("*.py")):
            if path not in found:
                found.add(path)
                waiting += [name for name in _imported(path) if beside(name, Path(folder))]
    return tuple(sorted(found))


def _imported(path: Path) -> Iterator[str]:
    """Yield the top-level names that a source file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _version(module: str, points: Sequence[EntryPoint], folder: str | None) -> str | None:
    """Return the name and version of the installed package that a plug-in comes with."""
    if points:
        return package_of(points[0])
    top = module.partition(".")[0]
    if folder is not None:
        return None
    names = packages_distributions().get(top, [])
    return f"{names[0]} {version(names[0])}" if names else None


def _is_candidate(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _looked(name: str, folder: str | None) -> str:
    """Say where a module was looked for, and what there is that is close."""
    where = "the installed packages" if folder is None else f"{folder} and the installed packages"
    stems = [path.stem for path in Path(folder).glob("*.py")] if folder is not None else []
    return f" in {where}{_nearest(name, stems, several=False)}"


def _nearest(name: str, known: Sequence[str], *, several: bool = True) -> str:
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(sorted(known))}" if several and known else ""
