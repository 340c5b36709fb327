"""Rows through flows, many at once: the processes, what they run, what they ask of models."""
