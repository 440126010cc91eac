"""The broker: an embedded NATS server, checked connections, and the streams and buckets on it."""

from .buckets import read_bucket
from .client import Client, Message
from .connection import Connection, connect
from .embedded import EmbeddedServer, embedded_server
from .sender import Sender
from .topology import ensure_topology

__all__ = [
    "Client",
    "Connection",
    "EmbeddedServer",
    "Message",
    "Sender",
    "connect",
    "embedded_server",
    "ensure_topology",
    "read_bucket",
]
