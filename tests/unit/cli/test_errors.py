"""From exception groups to the sentence for the user."""

from sagellm.cli.errors import reason_of
from sagellm_schemas import BrokerError, ModelLoadError


def test_the_first_of_several_reasons_is_told() -> None:
    group = ExceptionGroup("a", [ExceptionGroup("b", [ModelLoadError("no model")]), BrokerError("no broker")])
    assert str(reason_of(group)) == "no model"


def test_a_defect_among_them_is_not_hidden() -> None:
    assert reason_of(ExceptionGroup("a", [ModelLoadError("no model"), ZeroDivisionError()])) is None
