"""Hostile bodies through the whole path that a stranger's bytes take: proof, reading, labels, ledger."""
