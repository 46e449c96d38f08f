"""Two processes that meet over the loopback give, each of them, what one process gives."""

import os
import re
import socket
import subprocess
import sys
import textwrap

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
    for policy, options in (
        (decentralized(game="forecast"), {"schedule": "stream", "block": 128}),
        (greedy(GameCost(effort=50.0)), {"mesh": mesh, "reproducible": True}),
    ):
        result = simulate(
            brownian(12), random_features(3), policy, ridge_mixture(), num_agents=5003,
            key=jax.random.key(0), keep_costs=True, record=Record(agents=(0, 5002)), **options,
        )
        arrays = [result.agent_costs, result.server, result.mean_field, result.forecast,
                  result.recorded["prediction"], result.status]
        assert arrays[0].shape == (5003,)
        bits = b"".join(np.asarray(one).tobytes() for one in arrays)
        found = hashlib.sha256(bits).hexdigest(), float(result.summary.worst_agent_cost)
        print("\\nFOUND", *found, flush=True)
    """
)


def start(processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(processes), str(number)],
            env=environment,
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


def test_two_processes_and_one_give_the_same_bits():
    together = start(2)
    try:
        first, second = map(told, together)
    finally:
        for process in together:
            process.kill()
    assert len(first) == 2
    assert first == second
    assert first == told(start(1)[0])
