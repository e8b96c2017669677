"""Use cases: plan, show, execute."""
