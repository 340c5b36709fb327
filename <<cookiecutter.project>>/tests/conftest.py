"""Load prompt flow as the tasks do: no telemetry, no network, nothing in the home folder.

A repo whose flows are plain Python has none.
"""

from importlib.util import find_spec

from llmops.running.promptflow_runner import import_promptflow

if find_spec("promptflow"):
    import_promptflow()
