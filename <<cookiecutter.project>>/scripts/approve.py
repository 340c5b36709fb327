"""Show the last experiment to a person and ask whether it may be deployed."""

from llmops.task import main
from llmops.verdict import approval

if __name__ == "__main__":
    main(approval.run)
