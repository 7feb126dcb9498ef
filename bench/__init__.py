"""Figures anyone can rerun, beside a peer in the same run: `make bench`."""
