"""Roll the registered flow out to the endpoint of ENV."""

from llmops.azure import deploy
from llmops.task import main

if __name__ == "__main__":
    main(deploy.deploy)
