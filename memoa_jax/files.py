"""Files that are written whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

LOCK = ".memoa.lock"


class LockedError(Exception):
    """Another process writes in the folder; the message is one line that names it."""


def replace(path: Path, content: bytes) -> None:
    """Write a file whole, or leave the old one as it was; it is on the disk on return.

    Raises:
      OSError: whatever went wrong; no part of the content is left anywhere.
    """
    with replacing(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written whole; at the end it takes the place of the old one.

    What is written goes under a temporary name and to the disk first.

    Raises:
      OSError: as `replace`.
    """
    temporary = _temporary(path)
    try:
        with _to_the_disk(temporary) as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    _sync_folder(path.parent)


def replace_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that are one; where the last of them is, the others are its own.

    All are on the disk under temporary names before the first takes its place; while they do,
    the last one is not there.

    Raises:
      OSError: whatever went wrong; where there was no room for all, the old ones stand.
    """
    *_, last = files
    temporaries = {name: _temporary(folder / name) for name in files}
    try:
        for name, temporary in temporaries.items():
            with _to_the_disk(temporary) as stream:
                stream.write(files[name])
        (folder / last).unlink(missing_ok=True)
        _sync_folder(folder)
        for name, temporary in temporaries.items():
            if name == last:
                _sync_folder(folder)
            os.replace(temporary, folder / name)
    except BaseException:
        for temporary in temporaries.values():
            remove(temporary)
        raise
    _sync_folder(folder)


@contextlib.contextmanager
def _to_the_disk(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written; what was written is on the disk at the end."""
    with open(path, "w+b") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove(path: Path) -> None:
    """Remove a file if it is there; one that cannot be removed stays."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left behind; for the only writer of a folder."""
    for path in folder.glob(".*.tmp"):
        remove(path)


def file_hash(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder; the system lets go when this one dies.

    Raises:
      LockedError: if another process has it.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / LOCK
    while True:
        with open(path, "a+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                allowed = "allowed is one at a time, or another folder"
                raise LockedError(f"{folder}: {_holder(stream)} writes here: {allowed}") from None
            except OSError:  # a file system without locks
                yield
                return
            if not _is_at(stream, path):
                continue  # the writer before took it away while it was being opened
            stream.truncate(0)
            stream.write(str(os.getpid()).encode())
            stream.flush()
            try:
                yield
            finally:
                remove(path)
            return


def _is_at(stream: IO[Any], path: Path) -> bool:
    """Return whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(stream: IO[Any]) -> str:
    stream.seek(0)
    number = stream.read(20).decode(errors="replace")
    return f"process {number}" if number.isdigit() else "another process"
