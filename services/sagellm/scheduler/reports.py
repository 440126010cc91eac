"""What became of dispatched requests: credits are freed, ended requests settled, the others brought back."""

import logging

from sagellm.broker import Message
from sagellm.scheduler.adoption import Adoption, is_final
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.preemption import Preemption
from sagellm.scheduler.recovery import Recovery
from sagellm.scheduler.requests import RequestTable
from sagellm_schemas import Codec, Ended, InvalidRequest, RequestStatus, WorkReport

logger = logging.getLogger(__name__)


class Reports:
    """Takes in `WorkReport`s. Handling is idempotent: only the present attempt at the present instance counts."""

    def __init__(
        self,
        table: RequestTable,
        instances: Instances,
        adoption: Adoption,
        endings: Endings,
        recovery: Recovery,
        dispatcher: Dispatcher,
        preemption: Preemption,
        metrics: SchedulerMetrics,
    ) -> None:
        self._table = table
        self._instances = instances
        self._adoption = adoption
        self._endings = endings
        self._recovery = recovery
        self._dispatcher = dispatcher
        self._preemption = preemption
        self._metrics = metrics
        self._codec = Codec(WorkReport)

    def on_message(self, message: Message) -> None:
        """One report off the wire."""
        try:
            report = self._codec.decode(message.data)
        except InvalidRequest as error:
            logger.warning("a report on %s cannot be read: %s", message.subject, error)
            return
        for ended in report.ended:
            self.ended(report.instance, ended)
        if report.started:
            self._started(report)

    def _started(self, report: WorkReport) -> None:
        """Prompts have been read: there is room for others."""
        instance = self._instances.get(report.instance)
        if instance is not None:
            for request_id in report.started:
                instance.started(request_id)
            self._dispatcher.wake()

    def ended(self, instance_id: str, ended: Ended) -> None:
        """One work item has ended at an instance."""
        instance = self._instances.get(instance_id)
        tracked = self._table.get(ended.id)
        if tracked is None:
            if instance is not None:
                instance.release(ended.id)
            if self._adoption.replaying:
                self._adoption.has_ended(ended)
            return
        if tracked.status is not RequestStatus.RUNNING or tracked.instance != instance_id:
            return
        if tracked.attempt != ended.attempt:
            return
        if instance is not None:
            instance.release(ended.id)
        self._dispatcher.ended(tracked, ended)
        self._metrics.requests.attempt_ended(tracked, ended)
        if is_final(ended):
            self._endings.settle(tracked, ended)
        elif ended.error is not None:
            self._recovery.failed(tracked, ended.error)
        else:
            self._preemption.returned(tracked)
            self._recovery.returned(tracked)
        self._dispatcher.wake()
