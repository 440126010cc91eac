"""The broker: an embedded NATS server, checked connections, and the streams and buckets on it."""

from .buckets import read_bucket
from .client import Client, Message
from .connection import Connection, connect
from .direct import DirectReader, Stored
from .embedded import EmbeddedServer, embedded_server
from .sender import Sender
from .topology import ensure_topology

__all__ = [
    "Client",
    "Connection",
    "DirectReader",
    "EmbeddedServer",
    "Message",
    "Sender",
    "Stored",
    "connect",
    "embedded_server",
    "ensure_topology",
    "read_bucket",
]
