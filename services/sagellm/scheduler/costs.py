"""What a request costs, before it runs and after, and how its budget is kept.

A tariff is an instance's price per second, times what of its time a token takes: prompts by the token of a step,
outputs by the token and their share of the step's base. It is fixed when the request is dispatched, so the cost of
so many tokens is known before they are there, and a budget can be kept exactly.
"""

import msgspec

from sagellm.scheduler.estimates import ModelPace
from sagellm_schemas import BudgetExceeded, InferenceRequest, Tariff

SECONDS_PER_HOUR = 3600.0


def tariff_of(price_per_hour: float, pace: ModelPace) -> Tariff | None:
    """The tariff of an instance of that price that keeps that pace; None where it costs nothing."""
    if price_per_hour <= 0:
        return None
    price_per_s = price_per_hour / SECONDS_PER_HOUR
    return Tariff(input_token=price_per_s * pace.prompt_token_s, output_token=price_per_s * pace.output_token_s)


def within_budget(request: InferenceRequest, prompt_tokens: int, tariff: Tariff | None) -> InferenceRequest:
    """`request` with as many `max_tokens` as its `cost_budget` pays for.

    Raises:
        BudgetExceeded: it does not even pay for the prompt and the fewest tokens that are asked for.
    """
    budget = request.cost_budget
    if budget is None or tariff is None:
        return request
    fewest = max(1, request.sampling.min_tokens)
    needed = tariff.cost(prompt_tokens, fewest)
    if needed > budget:
        raise BudgetExceeded(
            f"the prompt of {prompt_tokens} tokens and {fewest} of output would cost {needed:.6g}, "
            f"and cost_budget is {budget:.6g}; raise it, or send a shorter prompt",
            param="cost_budget",
        )
    left = budget - tariff.cost(prompt_tokens, 0)
    most = max(fewest, int(left / tariff.output_token)) if tariff.output_token > 0 else None
    asked = request.sampling.max_tokens
    if most is None or (asked is not None and asked <= most):
        return request
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, max_tokens=most))
