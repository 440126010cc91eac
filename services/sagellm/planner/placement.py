"""Where replicas go: a replica that fits one machine does not straddle two."""


def most_replicas(gpus: int, replica_gpus: int, per_node: int) -> int:
    """How many replicas `gpus` GPUs hold, in machines of `per_node` of which the last may be smaller."""
    if replica_gpus > per_node:
        return gpus // replica_gpus
    machines, rest = divmod(gpus, per_node)
    return machines * (per_node // replica_gpus) + rest // replica_gpus


def gpus_for(replicas: int, replica_gpus: int, per_node: int) -> int:
    """The fewest GPUs that hold so many replicas, which are at least one."""
    if replica_gpus > per_node:
        return replicas * replica_gpus
    machines, rest = divmod(replicas - 1, per_node // replica_gpus)
    return machines * per_node + (rest + 1) * replica_gpus


def machine_and_devices(replica: int, replica_gpus: int, per_node: int) -> tuple[int, range]:
    """The machine of a replica that fits one, and its GPUs there; both count from 0."""
    machine, place = divmod(replica, per_node // replica_gpus)
    return machine, range(place * replica_gpus, (place + 1) * replica_gpus)
