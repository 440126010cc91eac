"""Admission: which new requests may wait at all, and when the others should come again."""

from .admission import Admission
from .backlog import Backlog
from .bounds import Bounds
from .rates import Rates

__all__ = ["Admission", "Backlog", "Bounds", "Rates"]
