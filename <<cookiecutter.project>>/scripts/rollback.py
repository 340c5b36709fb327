"""Lead all traffic of the endpoint back to the prior deployment."""

from llmops.azure import deploy
from llmops.task import main

if __name__ == "__main__":
    main(deploy.rollback)
