"""`make onboard`: an existing flow or use case comes into this repo, unchanged."""
