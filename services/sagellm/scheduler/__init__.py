"""The scheduler: holds the durable queue in memory, orders it by a policy, and assigns requests to workers."""
