"""Files that `make eject` copies beside a flow where it needs them: they know nothing of llmops."""
