"""The network: backbone, feature pyramid, heads, and the detector that joins them."""
