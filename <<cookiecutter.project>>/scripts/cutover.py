"""Lead the endpoint's traffic one step on from the prior deployment to the current one."""

from llmops.deploying import kinds
from llmops.task import main

if __name__ == "__main__":
    main(kinds.cutover)
