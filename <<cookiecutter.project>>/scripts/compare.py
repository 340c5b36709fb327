"""Run the experiment of another version (BASE) beside this one, and compare."""

from llmops import experiment
from llmops.task import main

if __name__ == "__main__":
    main(experiment.compare)
