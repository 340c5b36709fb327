"""Build the image that serves the flow, or only the folder that it is built from."""

from llmops.image import build
from llmops.task import main

if __name__ == "__main__":
    main(build.run)
