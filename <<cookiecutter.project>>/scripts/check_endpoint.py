"""Send the sample request to the endpoint and to each deployment."""

from llmops.azure import check
from llmops.task import main

if __name__ == "__main__":
    main(check.check)
