"""Exit codes of `sagellm`; `sagellm up` tells by them whether a service is worth starting again."""

EXIT_REFUSED = 1
"""It cannot run like this: one sentence on stderr says why. Starting it again would not help."""
EXIT_CRASHED = 70
"""A defect: the log has the traceback. Starting it again may help."""
EXIT_FORCED = 130
"""A second signal ended it before it had drained."""
