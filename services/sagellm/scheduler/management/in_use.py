"""Which policy and routing strategy are in use: an operator's choice, or else the settings'."""

import logging
import time
from importlib.metadata import entry_points

from sagellm.scheduler import policies, routing
from sagellm.scheduler.policies import Adaptive, Policy, PolicyOptions, make_policy
from sagellm.scheduler.routing import Router, make_router
from sagellm.settings import Settings
from sagellm_schemas import InvalidRequest, PolicyView, SettingsError

from .kept_orders import KeptOrders, Switch

logger = logging.getLogger(__name__)


class InUse:
    """The objects in use, made for one term of leadership by what was ordered before it."""

    def __init__(self, settings: Settings, kept: KeptOrders, term: int) -> None:
        self._settings = settings
        self._kept = kept
        self._term = term
        self._options = PolicyOptions.of(settings)
        self.policy = self._first_policy()
        self.router = self._first_router()

    def chosen(self, policy: str | None, routing_name: str | None) -> tuple[Policy, Router, Switch]:
        """New objects for these names (None: as the settings say), where they differ from what is in use.

        Raises:
            InvalidRequest: there is no such policy or routing strategy.
        """
        name, router_name = policy or self._settings.policy, routing_name or self._settings.routing
        try:
            made = self.policy if name == self.policy.name else make_policy(name, self._options)
        except SettingsError as error:
            raise InvalidRequest(error.message, param="policy") from None
        try:
            router = self.router if router_name == self.router.name else make_router(router_name)
        except SettingsError as error:
            raise InvalidRequest(error.message, param="routing") from None
        return made, router, Switch(policy=policy, routing=routing_name, at_s=time.time())

    def view(self) -> PolicyView:
        """What is in use, and why."""
        switch = self._kept.switch
        adaptive = self.policy if isinstance(self.policy, Adaptive) else None
        switched = switch.policy is not None or switch.routing is not None
        reason = "an operator has switched to it" if switch.policy is not None else "it is the setting"
        return PolicyView(
            policy=self.policy.name,
            active=adaptive.active if adaptive else self.policy.name,
            reason=adaptive.reason if adaptive else reason,
            routing=self.router.name,
            policy_setting=self._settings.policy,
            routing_setting=self._settings.routing,
            switched_at=switch.at_s if switched else None,
            policies=_with_plugins(policies.NAMES, "sagellm.policies"),
            routings=_with_plugins([kind.name for kind in routing.BUILT_IN], "sagellm.routing"),
            term=self._term,
        )

    def _first_policy(self) -> Policy:
        name = self._kept.switch.policy
        if name is not None:
            try:
                return make_policy(name, self._options)
            except SettingsError as error:
                logger.error("the policy that an operator has chosen is not there, using the setting: %s", error)
        return make_policy(self._settings.policy, self._options)

    def _first_router(self) -> Router:
        name = self._kept.switch.routing
        if name is not None:
            try:
                return make_router(name)
            except SettingsError as error:
                logger.error("the routing that an operator has chosen is not there, using the setting: %s", error)
        return make_router(self._settings.routing)


def _with_plugins(built_in: list[str] | tuple[str, ...], group: str) -> list[str]:
    offered = sorted(entry.name for entry in entry_points(group=group) if entry.name not in built_in)
    return [*built_in, *offered]
