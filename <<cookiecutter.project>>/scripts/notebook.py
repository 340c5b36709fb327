"""Run the notebook on the last experiment and keep it with its outputs."""

from llmops import notebook
from llmops.task import main

if __name__ == "__main__":
    main(notebook.run)
