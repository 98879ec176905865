"""Strategies from outside of qguard."""
