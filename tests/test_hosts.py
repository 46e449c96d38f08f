"""Two processes that meet over the loopback give, each of them, what one process gives."""

import re
import socket
import subprocess
import sys
import textwrap

import pytest
from helpers import environment

SCRIPT = textwrap.dedent(
    """
    import hashlib
    import sys
    import jax
    import numpy as np
    from jax.sharding import Mesh

    address, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if count > 1:
        jax.distributed.initialize(address, count, number)
    from memoa_jax import GameCost, decentralized, greedy, placement, random_features
    from memoa_jax import ridge_mixture, simulate
    from memoa_jax.recording import Record
    from memoa_jax.series import brownian

    assert jax.device_count() == 4
    placement.AGENTS_PER_CALL = 256  # many calls, and not a multiple of the devices
    mesh = Mesh(np.array(jax.devices()), ("agents",))
    CASES = (
        (decentralized(game="forecast"), {"schedule": "stream", "block": 128}),
        (greedy(GameCost(effort=50.0)), {"mesh": mesh, "reproducible": True}),
    )

    def run(policy, options):
        result = simulate(
            brownian(12), random_features(3), policy, ridge_mixture(), num_agents=5003,
            key=jax.random.key(0), keep_costs=True, record=Record(agents=(0, 5002)), **options,
        )
        arrays = [result.agent_costs, result.server, result.mean_field, result.forecast,
                  result.recorded["prediction"], result.status]
        assert arrays[0].shape == (5003,)
        bits = b"".join(np.asarray(one).tobytes() for one in arrays)
        return hashlib.sha256(bits).hexdigest(), float(result.summary.worst_agent_cost)
    """
)


EACH = """
for policy, options in CASES:
    print("\\nFOUND", *run(policy, options), flush=True)
"""
KEPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from memoa_jax.checkpoint import Store
    from memoa_jax.disk_keeper import DiskKeeper
    from memoa_jax.stopping import Stop

    class Noted(DiskKeeper):
        offers = 0

        def offer(self, *arguments):
            Noted.offers += 1
            if ends and Noted.offers == 2 and jax.process_index() == count - 1:
                self.stop.signal = 2  # one of them is asked to stop; all do
            super().offer(*arguments)

    folder, ends = Path(sys.argv[4]), sys.argv[5] == "ends"
    for number, (policy, options) in enumerate(CASES):
        Noted.offers = 0
        keeper = Noted(Store(folder / str(number)), None, Stop(), print)
        try:
            found = run(policy, options | {"keeper": keeper, "chunk": 4})
            print("\\nFOUND", *found, flush=True)
        except KeyboardInterrupt:
            print("\\nENDED", flush=True)
    """
)


def start(processes, *words, script=None, quick=False):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    python = [sys.executable, "-c", script or SCRIPT + EACH]
    return [
        subprocess.Popen(
            [*python, address, str(processes), str(number), *words],
            env=environment(4 // processes, quick=quick),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def told(process):
    output, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint[-3000:]
    # The library that carries sums between processes writes to the same output, whenever it likes.
    return re.findall(r"FOUND ([0-9a-f]{64} [0-9.]+)", output)


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_and_one_give_the_same_bits(quick):
    together = start(2, quick=quick)
    try:
        first, second = map(told, together)
    finally:
        for process in together:
            process.kill()
    assert len(first) == 2
    assert first == second
    assert first == told(start(1, quick=quick)[0])


def stopped(process):
    output, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint[-3000:]
    return output.count("ENDED")


@pytest.mark.slow
def test_two_processes_are_stopped_as_one_and_any_number_goes_on(tmp_path):
    whole = told(start(1)[0])
    assert len(whole) == 2
    for processes in (2, 1):
        folder = str(tmp_path / str(processes))
        assert [stopped(one) for one in start(2, folder, "ends", script=SCRIPT + KEPT)] == [2, 2]
        for one in start(processes, folder, "goes on", script=SCRIPT + KEPT):
            assert told(one) == whole
