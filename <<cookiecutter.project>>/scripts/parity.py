"""Do two implementations of a flow, A and B, do the same over the same rows?"""

from llmops import parity
from llmops.task import main

if __name__ == "__main__":
    main(parity.run)
