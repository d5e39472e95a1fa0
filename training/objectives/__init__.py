"""What a model is trained for: heads, and the towers they stand on."""
