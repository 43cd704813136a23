"""Throughput, latency, memory and FLOPs, beside PyTorch's. See `launch.bench`."""
