"""From the exception groups of task groups back to the sentence for the user."""

from collections.abc import Iterator

from sagellm_schemas import SageError


def reason_of(group: BaseExceptionGroup[BaseException]) -> SageError | None:
    """The first error of `group` if all of them are for the user; None if one of them is a defect."""
    errors = list(_leaves(group))
    first = errors[0]
    return first if isinstance(first, SageError) and all(isinstance(e, SageError) for e in errors) else None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
