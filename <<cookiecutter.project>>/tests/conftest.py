"""Load prompt flow as the tasks do: no telemetry, no network, nothing in the home folder."""

from llmops.promptflow_runner import import_promptflow

import_promptflow()
