"""Evaluation: predictions counted, metrics, reports."""
