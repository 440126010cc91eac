"""The broker: an embedded NATS server, checked connections, and the streams and buckets on it."""

from .buckets import read_bucket
from .connection import Connection, connect
from .embedded import EmbeddedServer, embedded_server
from .topology import ensure_topology

__all__ = ["Connection", "EmbeddedServer", "connect", "embedded_server", "ensure_topology", "read_bucket"]
