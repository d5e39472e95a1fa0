"""What turns a tower and a feed into trained weights: optimiser, ZeRO, checkpoints, the one loop."""
