"""Check everything that can be checked without running a row."""

from llmops import stages
from llmops.task import main

if __name__ == "__main__":
    main(stages.validate)
