"""What an item becomes on its way into the engine."""

from typing import cast

import pytest

from sagellm.broker import Connection
from sagellm.worker.intake import Intake
from sagellm.worker.ledger import Ledger
from sagellm.worker.outbox import Outbox
from sagellm_engine.contract import AsyncEngine, GenerateRequest
from sagellm_schemas import InferenceRequest, WorkItem


class RecordingEngine:
    def __init__(self) -> None:
        self.given: list[GenerateRequest] = []

    def generate(self, request: GenerateRequest) -> None:
        self.given.append(request)


@pytest.mark.parametrize(("paced", "expected"), [(True, 100.0), (False, None)])
def test_the_engine_minds_the_pace_of_an_answer_only_if_the_scheduler_asks_for_it(
    paced: bool, expected: float | None
) -> None:
    engine = RecordingEngine()
    # What starts needs neither the broker nor the way back.
    intake = Intake(
        cast(Connection, None), cast(AsyncEngine, engine), Ledger(), cast(Outbox, None), None, lambda: True
    )
    request = InferenceRequest(model="m", id="a", prompt_token_ids=[1, 2], tbt_slo_ms=100.0)
    intake.take(WorkItem(request=request, paced=paced), "ack")
    assert [given.tbt_slo_ms for given in engine.given] == [expected]
