"""Run every variant over every dataset, evaluate, report and judge."""

from llmops import experiment
from llmops.task import main

if __name__ == "__main__":
    main(experiment.run)
