"""Show the last experiment to a person and ask whether it may be deployed."""

from llmops import approval
from llmops.task import main

if __name__ == "__main__":
    main(approval.run)
