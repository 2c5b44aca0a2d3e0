"""Two runners, engines or checkouts, timed in turn."""
