"""How far apart the users are in the service they got, while both wait for more.

Service is counted in weighted tokens as in Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024):
1 for each input token, 2 for each output token, divided by the user's weight. The gap is what their
theorem bounds under a fair policy: the largest difference between two users with requests in the queue. A
user who comes back is lifted to the least served of those who wait, so idling earns no credit.
"""

from sagellm.scheduler.policies.fair import service_tokens

MAX_USERS = 10_000


class FairnessGap:
    """Counts service and waiting requests by user, whatever the policy; `sample` is called now and then."""

    def __init__(self) -> None:
        self._service: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._compared: set[str] = set()
        self.gap_tokens = 0.0

    def nobody_waits(self) -> None:
        """A new leader begins with an empty queue."""
        self._waiting.clear()
        self.gap_tokens = 0.0

    def waits(self, user_id: str) -> None:
        """A request of that user has begun to wait."""
        self._waiting[user_id] = self._waiting.get(user_id, 0) + 1

    def waits_no_more(self, user_id: str) -> None:
        """A request of that user has left the queue."""
        left = self._waiting.get(user_id, 0) - 1
        if left > 0:
            self._waiting[user_id] = left
        else:
            self._waiting.pop(user_id, None)

    def waiting(self, user_id: str) -> int:
        """How many requests of that user wait."""
        return self._waiting.get(user_id, 0)

    def served(self, user_id: str, input_tokens: int, output_tokens: int, weight: float = 1.0) -> None:
        """A user got service."""
        tokens = service_tokens(input_tokens, output_tokens) / weight
        self._service[user_id] = self._service.get(user_id, 0.0) + tokens

    def sample(self) -> None:
        """Bring `gap_tokens` up to date; users are lifted here, so a gap counts from the second sample on."""
        service, waiting = self._service, self._waiting
        staying = [service.get(user, 0.0) for user in waiting if user in self._compared]
        floor = min(staying, default=max((service.get(user, 0.0) for user in waiting), default=0.0))
        for user in waiting:
            if user not in self._compared:
                service[user] = max(service.get(user, 0.0), floor)
        self._compared = set(waiting)
        now = [service[user] for user in waiting]
        self.gap_tokens = max(now) - min(now) if now else 0.0
        if len(service) > MAX_USERS:
            self._service = {user: service[user] for user in waiting}
