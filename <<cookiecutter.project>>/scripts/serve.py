"""Serve the flow on this machine until Ctrl-C."""

from llmops.serving import stage
from llmops.task import main

if __name__ == "__main__":
    main(stage.run)
