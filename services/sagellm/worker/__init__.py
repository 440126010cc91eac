"""The worker: takes work items from the scheduler, runs them in an engine, and streams frames to the readers."""

from .main import run

__all__ = ["run"]
