"""From an entry of deployment_config.json to an endpoint: what is planned, step by step, tested."""
