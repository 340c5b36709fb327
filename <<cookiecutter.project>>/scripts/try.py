"""Run one row through the flow and print what comes back."""

from llmops import trial
from llmops.task import main

if __name__ == "__main__":
    main(trial.run)
