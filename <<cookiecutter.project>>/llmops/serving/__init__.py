"""A flow as an HTTP endpoint: the bundle it is served from, and the server."""
