"""Judge the last experiment's scores by the limits of experiment.yaml."""

from llmops import stages
from llmops.task import main

if __name__ == "__main__":
    main(stages.gate)
