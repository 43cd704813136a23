"""Throughput, latency, memory and FLOPs, beside PyTorch's. See `cardiojax.cli.bench`."""
