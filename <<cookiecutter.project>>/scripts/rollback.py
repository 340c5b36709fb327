"""Lead the endpoint or web app of ENV back to what served before."""

from llmops.deploying import kinds
from llmops.task import main

if __name__ == "__main__":
    main(kinds.rollback)
