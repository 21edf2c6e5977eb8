"""Scoring and evaluating on Ray Data; planning and committing are pure."""
