"""The steps of deduplication, one file each; `dedup.py` puts them in their order."""
