"""Networks, models and predictors: torch without Ray."""
