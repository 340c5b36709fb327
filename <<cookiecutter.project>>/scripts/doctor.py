"""Say what is configured, what is missing and whether each endpoint answers."""

from llmops import stages
from llmops.task import main

if __name__ == "__main__":
    main(stages.doctor)
