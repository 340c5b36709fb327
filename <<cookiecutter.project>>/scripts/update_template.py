"""Bring later changes of the template into this repo."""

from llmops import template
from llmops.task import main

if __name__ == "__main__":
    main(template.run)
