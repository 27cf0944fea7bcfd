"""Post-training compressor and format converter for neural-network weights."""
