"""Features of all proposals of a data set in one file that is mapped into memory."""

from frcnn_jax.comparison.feature_store.reading import FeatureStore, SelectedRows, fingerprint, store_bytes
from frcnn_jax.comparison.feature_store.writing import FeatureWriter, write_features

__all__ = ["FeatureStore", "FeatureWriter", "SelectedRows", "fingerprint", "store_bytes", "write_features"]
