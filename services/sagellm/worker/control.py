"""Orders to the worker: `Control` from the leading scheduler, `Cancel` from readers."""

import logging
from collections.abc import Callable

from sagellm.broker import Connection, Message, Sender
from sagellm_engine.contract import AsyncEngine
from sagellm_schemas import Cancel, Codec, Control, InvalidRequest, encode, sniff, subjects

from .heartbeat import Heartbeat
from .ledger import Job, Ledger
from .outbox import Outbox

logger = logging.getLogger(__name__)


class Orders:
    """Follows orders; `drain` is called when one says to take no more work, `leave` when one says to stop after
    that, `tell_prefixes` when one asks for a full account of the prefix cache."""

    def __init__(
        self,
        engine: AsyncEngine,
        ledger: Ledger,
        outbox: Outbox,
        heartbeat: Heartbeat,
        sender: Sender,
        drain: Callable[[], None],
        leave: Callable[[], None],
        tell_prefixes: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._sender = sender
        self._drain = drain
        self._leave = leave
        self._tell_prefixes = tell_prefixes
        self._controls = Codec(Control)
        self._cancels = Codec(Cancel)

    async def listen(self, connection: Connection, instance: str) -> None:
        """Subscribe; from here on the instance answers."""
        await connection.nc.handle(subjects.control(instance), self._on_control)
        await connection.nc.handle(subjects.CANCEL, self._on_cancel)

    def preempt(self, jobs: list[Job]) -> None:
        """Stop `jobs` and hand them back."""
        for job in jobs:
            self._engine.abort(job.key)
        if jobs:
            self._outbox.returned(jobs)

    def follow(self, control: Control) -> None:
        """Do what `control` says, unless it comes from a leader that has been replaced."""
        if not self._ledger.fence(control.term):
            logger.warning("ignored an order of term %d: the term is %d", control.term, self._ledger.term)
            return
        jobs = [self._ledger.running(request_id) for request_id in control.preempt]
        self.preempt([job for job in jobs if job is not None])
        if control.drain or control.leave:
            self._drain()
        if control.leave:
            self._leave()
        if control.prefixes:
            self._tell_prefixes()

    def cancel(self, request_ids: list[str]) -> None:
        """Stop those that run here, and remember them all."""
        jobs = self._ledger.cancel(request_ids)
        for job in jobs:
            self._engine.abort(job.key)
        if jobs:
            self._outbox.cancelled(jobs)

    def _on_control(self, msg: Message) -> None:
        try:
            self.follow(self._controls.decode(msg.data))
        except InvalidRequest as error:
            logger.warning("an order cannot be read: %s", error)
        if msg.reply:
            self._sender.send(msg.reply, encode(self._heartbeat.report(), sniff(msg.data)))

    def _on_cancel(self, msg: Message) -> None:
        try:
            self.cancel(self._cancels.decode(msg.data).ids)
        except InvalidRequest as error:
            logger.warning("a cancellation cannot be read: %s", error)
