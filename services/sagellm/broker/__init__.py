"""The broker: an embedded NATS server, checked connections, and the streams and buckets on it."""

from .connection import Connection, connect
from .embedded import EmbeddedServer, embedded_server
from .topology import ensure_topology

__all__ = ["Connection", "EmbeddedServer", "connect", "embedded_server", "ensure_topology"]
