"""Damage on the disk is found, and what was good before it stands in."""

import builtins
import errno
import hashlib
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from memoa_jax.checkpoint import DamagedError, Store
from memoa_jax.files import LockedError, only_writer, remove_temporaries
from memoa_jax.report import write_files

if sys.platform != "win32":
    import fcntl

CHANCE = random.Random(1)


def content(number):
    arrays = {"state['a']": np.arange(40.0) + number, "rows": np.full((3, 2), number, np.int32)}
    return arrays, {"step": number, "cost": float("nan"), "words": ["ä", None]}


def same(found, number):
    arrays, facts = content(number)
    assert facts.keys() == found.facts.keys()
    assert found.facts["step"] == number
    assert arrays.keys() == found.arrays.keys()
    return all(np.array_equal(arrays[name], found.arrays[name]) for name in arrays)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "part")
    for number in range(3):
        made.save(*content(number))
    return made


def test_the_newest_two_are_kept(store):
    assert sorted(path.name for path in store.folder.iterdir()) == [
        f"{number:06d}.{kind}" for number in (1, 2) for kind in ("json", "npz")
    ]
    found, damaged = store.load()
    assert same(found, 2)
    assert damaged == []
    store.clear()
    assert store.load() is None
    assert not store.folder.exists()


def damaged_at(store, name, change):
    """Change a file of the newest checkpoint; return what is loaded, and put the file back."""
    path = store.folder / name
    good = path.read_bytes()
    path.write_bytes(change(good))
    try:
        return store.load()
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["000002.npz", "000002.json"])
def test_every_flipped_bit_is_found(store, name):
    size = (store.folder / name).stat().st_size

    def flip(good):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        return bytes(bad)

    for place in CHANCE.sample(range(8 * size), 100):
        found, damaged = damaged_at(store, name, flip)
        assert same(found, 1), place
        assert len(damaged) == 1
        assert name in damaged[0]
        assert "damaged" in damaged[0]


@pytest.mark.parametrize("name", ["000002.npz", "000002.json"])
def test_every_truncation_is_found(store, name):
    size = (store.folder / name).stat().st_size
    for length in [0, size - 1, *CHANCE.sample(range(1, size - 1), 23)]:
        found, damaged = damaged_at(store, name, lambda good, length=length: good[:length])
        assert same(found, 1), length
        assert name in damaged[0]


def test_where_none_is_whole_that_is_said(store):
    for path in store.folder.glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(DamagedError, match=r"000002\.npz is damaged .*; .*000001\.npz is damaged"):
        store.load()


def test_a_file_that_is_gone_is_damage(store):
    (store.folder / "000002.npz").unlink()
    found, damaged = store.load()
    assert same(found, 1)
    assert "No such file" in damaged[0]


def numbers(store):
    return sorted({int(path.stem) for path in store.folder.iterdir()})


@pytest.mark.parametrize("kind", ["npz", "json"])
def test_the_whole_one_is_kept_beside_the_new_one_not_the_damaged_one(store, kind):
    def damage(number):
        path = store.folder / f"{number:06d}.{kind}"
        path.write_bytes(path.read_bytes()[:-1])

    damage(2)
    goes_on = Store(store.folder)
    assert same(goes_on.load()[0], 1)
    goes_on.save(*content(3))
    assert numbers(store) == [1, 3]
    assert same(Store(store.folder).load()[0], 3)
    goes_on.save(*content(4))
    assert numbers(store) == [3, 4]
    damage(4)
    damage(3)
    with pytest.raises(DamagedError):
        goes_on.load()

    goes_on.clear()
    for number in range(3):
        goes_on.save(*content(number))
    assert numbers(store) == [1, 2]


def test_twice_damaged_is_not_lost(store):
    for number in (2, 3):
        (store.folder / f"{number:06d}.npz").write_bytes(b"")
        goes_on = Store(store.folder)
        found, damaged = goes_on.load()
        assert same(found, 1)
        assert len(damaged) == 1
        goes_on.save(*content(number + 1))


class Failing:
    """Makes the k-th file operation fail; counts them."""

    NAMES = ("open", "fsync", "replace", "write")

    def __init__(self, monkeypatch, fails_at, code):
        self.count, self.fails_at, self.code = 0, fails_at, code
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))
        real = builtins.open

        def opening(*arguments, **keywords):
            self.operate()
            stream = real(*arguments, **keywords)
            if stream.writable():
                stream = Writing(stream, self)
            return stream

        monkeypatch.setattr(builtins, "open", opening)

    def operate(self):
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(self.code, os.strerror(self.code))

    def wrap(self, real):
        def run(*arguments):
            self.operate()
            return real(*arguments)

        return run


class Writing:
    """A stream whose writes and flushes are file operations, too."""

    def __init__(self, stream, failing):
        self.stream, self.failing = stream, failing

    def write(self, data):
        try:
            self.failing.operate()
        except OSError:
            self.stream.write(bytes(data)[: len(bytes(data)) // 2])  # half of it is there
            raise
        return self.stream.write(data)

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()


def operations(folder):
    with pytest.MonkeyPatch.context() as patch:
        counting = Failing(patch, None, 0)
        Store(folder).save(*content(0))
    return counting.count


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failing_operation_loses_nothing_and_leaves_nothing_partial(tmp_path, code):
    total = operations(tmp_path / "count")
    assert total >= 8
    for number in range(1, total + 1):
        store = Store(tmp_path / f"{code}-{number}")
        store.save(*content(0))
        store.save(*content(1))
        failed = []
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, number, code)
            try:
                store.save(*content(2))
            except OSError as error:
                failed.append(error.errno)
        found, damaged = store.load()
        assert failed in ([], [code])
        assert same(found, 1 if failed else 2)
        assert damaged == []
        names = sorted(path.name for path in store.folder.iterdir())
        assert not [name for name in names if name.endswith(".tmp")]
        store.save(*content(3))
        assert same(store.load()[0], 3)


def write_run(folder, number):
    """Write the files of a run and its manifest."""
    files = {"config.toml": b"a = 1\n", "summary.json": b"%d" % number, "rows.npz": b"x" * number}
    write_files(folder, files, {"seed": number})


def stands(folder):
    """Return the run that a folder holds; None where it has no manifest."""
    if not (folder / "manifest.json").exists():
        return None
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    return manifest["seed"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_manifest_is_there_with_the_files_that_are_its_own_and_no_others(tmp_path, code):
    with pytest.MonkeyPatch.context() as patch:
        counting = Failing(patch, None, 0)
        write_run(tmp_path, 1)
    standing, failures = [], []
    for number in range(1, counting.count + 1):
        write_run(tmp_path, 1)
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, number, code)
            try:
                write_run(tmp_path, 2)
            except OSError as error:
                failures.append(error.errno)
        standing.append(stands(tmp_path))
        names = {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
        assert names == {"config.toml", "summary.json", "rows.npz"}
    # Writing all four leaves the old ones; a rename that fails leaves no manifest.
    assert standing[:12] == [1] * 12
    assert standing.count(None) == 4
    assert set(standing[12:]) == {None, 2}
    assert set(failures) == {code}
    assert len(failures) >= 16


@pytest.mark.parametrize("rename", range(4))
def test_a_process_that_dies_between_two_files_leaves_no_manifest(tmp_path, monkeypatch, rename):
    class Died(BaseException):
        """Nothing of what follows is done."""

    real, renames = os.replace, []

    def replace(*arguments):
        renames.append(arguments)
        if len(renames) == 5 + rename:
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise Died
        real(*arguments)

    monkeypatch.setattr(os, "replace", replace)
    write_run(tmp_path, 1)
    assert stands(tmp_path) == 1
    with pytest.raises(Died):
        write_run(tmp_path, 2)
    assert stands(tmp_path) is None
    monkeypatch.undo()
    remove_temporaries(tmp_path)
    write_run(tmp_path, 2)
    assert stands(tmp_path) == 2


def test_one_writer_at_a_time(tmp_path):
    said = pytest.raises(LockedError, match=rf"process {os.getpid()} writes here")
    with only_writer(tmp_path), said, only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert list(tmp_path.iterdir()) == [Path(tmp_path / ".memoa.lock")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
@pytest.mark.parametrize("next_one", [False, True])
def test_a_lock_taken_away_while_it_is_opened_is_no_lock(tmp_path, monkeypatch, next_one):
    path, real, calls = tmp_path / ".memoa.lock", fcntl.flock, []

    def flock(stream, how):
        calls.append(how)
        if len(calls) == 1:  # the writer before ends now, and another one may begin
            path.unlink()
            if next_one:
                path.touch()
        return real(stream, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_writer(tmp_path):
        assert len(calls) == 2
        assert path.read_text() == str(os.getpid())
        with pytest.raises(LockedError), only_writer(tmp_path):
            pass
    assert not path.exists()
