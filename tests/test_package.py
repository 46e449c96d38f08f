"""The package's names: what importing it loads, and that every public name is found."""

import subprocess
import sys
from pathlib import Path

import pytest

import memoa_jax

ROOT = Path(__file__).parents[1]
IMPORTS = [
    "import memoa_jax",
    "import memoa_jax.simulate",
    "import memoa_jax; memoa_jax.simulate; import memoa_jax.simulate",
    "from memoa_jax.simulate import Record; import memoa_jax",
    "import importlib, memoa_jax; importlib.import_module('memoa_jax.simulate')",
    "from memoa_jax import *; import memoa_jax",
]


def test_simulate_is_the_function_in_every_import_order():
    """One process for all of them, which forgets the package in between."""
    code = f"""
import sys
import jax
for imports in {IMPORTS}:
    for name in [name for name in sys.modules if name.split(".")[0] == "memoa_jax"]:
        del sys.modules[name]
    names = {{}}
    exec(imports, names)
    memoa_jax = names["memoa_jax"]
    exec("from memoa_jax import simulate", names)
    simulate = names["simulate"]
    assert simulate is memoa_jax.simulate, imports
    assert callable(simulate) and not isinstance(simulate, type(sys)), imports
    assert simulate is sys.modules["memoa_jax.simulate"].simulate, imports
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, memoa_jax; dir(memoa_jax); memoa_jax.__version__\n"
        "assert not {'jax', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_starts_no_backend_says_nothing_and_configures_nothing():
    """Every module but `__main__`, which runs a command."""
    code = """
import importlib, logging, pkgutil, signal
handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
import memoa_jax
names = [one.name for one in pkgutil.iter_modules(memoa_jax.__path__) if one.name != "__main__"]
assert len(names) > 100
for name in names:
    importlib.import_module(f"memoa_jax.{name}")
import jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not jax.config.jax_enable_x64
assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]:
    if name == "root" or name.split(".")[0] == "memoa_jax":
        assert not getattr(logger, "handlers", []), name
assert logging.getLogger("memoa_jax").level == logging.NOTSET
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_resolve_and_others_do_not():
    for name in memoa_jax.__all__:
        assert getattr(memoa_jax, name) is not None
        assert name in dir(memoa_jax)
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        _ = memoa_jax.simulat
    assert not hasattr(memoa_jax, "__wrapped__")
