"""Bring the index over the documents up to date."""

from llmops.indexing import upkeep
from llmops.task import main

if __name__ == "__main__":
    main(upkeep.run)
