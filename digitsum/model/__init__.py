"""Networks, bundles and predictors: torch without Ray."""
