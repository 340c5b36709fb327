"""Bring in a flow or a use case that exists already, unchanged."""

from llmops import onboarding
from llmops.task import main

if __name__ == "__main__":
    main(onboarding.run)
