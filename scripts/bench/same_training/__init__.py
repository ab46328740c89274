"""Parts of scripts/same_training.py."""
