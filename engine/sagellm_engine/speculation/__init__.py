"""Speculative decoding: tokens are guessed cheaply, and the model checks several of them in one step.

What is in here knows no tensor but for `draft_model`, which is imported where it is used.
"""

from .acceptance import Ahead, accept
from .drafter import Drafter, StepLoad
from .ngram import NgramProposer
from .proposer import Outlook, Proposer
from .speculator import Speculator

__all__ = [
    "Ahead",
    "Drafter",
    "NgramProposer",
    "Outlook",
    "Proposer",
    "Speculator",
    "StepLoad",
    "accept",
]
