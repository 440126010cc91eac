"""Programs for a peer's own Python environment: they import the peer and the standard library, nothing of ours.

`sagellm bench engine` starts one for each peer; `protocol` says how they speak.
"""
