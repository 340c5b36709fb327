"""Put reports/summary.md where the reviewer is: the job's page and the pull request."""

from llmops import comment
from llmops.task import main

if __name__ == "__main__":
    main(comment.run)
