"""The same networks in plain PyTorch, to measure ours against. Need the extra `cardiojax[torch]`."""
