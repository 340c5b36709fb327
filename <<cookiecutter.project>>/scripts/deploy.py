"""Roll the registered flow out to the endpoint or web app of ENV."""

from llmops.deploying import kinds
from llmops.task import main

if __name__ == "__main__":
    main(kinds.deploy)
