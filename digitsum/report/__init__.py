"""Pictures drawn from what a run recorded."""
