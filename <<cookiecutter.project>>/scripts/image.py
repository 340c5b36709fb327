"""Build the image that serves the flow, or only the folder that it is built from."""

from llmops import image_build
from llmops.task import main

if __name__ == "__main__":
    main(image_build.run)
