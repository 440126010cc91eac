"""Replicas on machines."""

from hypothesis import given
from hypothesis import strategies as st

from sagellm.planner.placement import gpus_for, machine_and_devices, most_replicas

sizes = st.integers(1, 40)


@given(st.integers(1, 200), sizes, st.integers(1, 16))
def test_as_many_replicas_as_are_held_need_no_more_gpus(gpus: int, replica: int, per_node: int) -> None:
    replicas = most_replicas(gpus, replica, per_node)
    assert replicas * replica <= gpus
    assert most_replicas(gpus + 1, replica, per_node) >= replicas
    assert gpus_for(replicas + 1, replica, per_node) > gpus
    if replicas:
        assert gpus_for(replicas, replica, per_node) <= gpus


@given(st.integers(0, 100), st.integers(1, 16), st.integers(1, 16))
def test_no_replica_straddles_two_machines_or_shares_a_gpu(replica: int, size: int, per_node: int) -> None:
    if size <= per_node:
        machine, devices = machine_and_devices(replica, size, per_node)
        after = machine_and_devices(replica + 1, size, per_node)
        assert len(devices) == size
        assert devices.stop <= per_node
        assert (machine, devices.stop - 1) < (after[0], after[1].start)
