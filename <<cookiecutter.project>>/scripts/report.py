"""Write the report of the last experiment again."""

from llmops import stages
from llmops.task import main

if __name__ == "__main__":
    main(stages.report)
