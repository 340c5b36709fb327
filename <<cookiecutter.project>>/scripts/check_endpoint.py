"""Send the sample request to the endpoint and each deployment, or to the web app."""

from llmops.deploying import kinds
from llmops.task import main

if __name__ == "__main__":
    main(kinds.check)
