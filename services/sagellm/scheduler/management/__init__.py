"""What operators may ask and order: answered by the leading scheduler, over NATS."""

from .desk import Desk
from .in_use import InUse
from .kept_orders import KeptOrders, Switch
from .orders import Orders
from .queries import Queries

__all__ = ["Desk", "InUse", "KeptOrders", "Orders", "Queries", "Switch"]
