"""Register the flow and its data in Azure ML, a new version only where content changed."""

from llmops.azure import register
from llmops.task import main

if __name__ == "__main__":
    main(register.run)
