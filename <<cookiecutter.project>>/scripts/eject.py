"""Write a flow of prompt flow anew as plain Python."""

from llmops import ejecting
from llmops.task import main

if __name__ == "__main__":
    main(ejecting.run)
