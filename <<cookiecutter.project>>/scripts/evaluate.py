"""Score the stored outputs of the last experiment again."""

from llmops import experiment
from llmops.task import main

if __name__ == "__main__":
    main(experiment.evaluate)
