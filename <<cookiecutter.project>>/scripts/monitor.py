"""Score a production log and compare it with what was registered."""

from llmops.monitoring import monitor
from llmops.task import main

if __name__ == "__main__":
    main(monitor.run, monitor.DEFAULT_ENV)
