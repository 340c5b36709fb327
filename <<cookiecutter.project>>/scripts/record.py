"""Run the experiment against the endpoints and keep their answers in recordings/."""

from llmops import stages
from llmops.task import main

if __name__ == "__main__":
    main(stages.record)
