"""What an endpoint answered in production: scored, judged, compared."""
