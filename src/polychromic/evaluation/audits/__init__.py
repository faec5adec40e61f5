"""Audits of what decides: the checker, and the partition into same answers."""
