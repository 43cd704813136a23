"""An NVIDIA H200 to compile for, which need not be here: its compiler comes with jax-cuda12-plugin, jax-cuda12-pjrt and
nvidia-cuda-nvcc-cu12 (the versions of your jax)."""

import jax
from jax.experimental import topologies

TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  memory_bandwidth: 4800000000000 device_memory_size: 151397597184 cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H200"
"""


def devices(count: int) -> list:
    """So many of one machine. From here on what asks for the kind of machine is answered as there."""
    jax.default_backend = lambda: "gpu"
    machine = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology=f"1x1x{count}")
    return list(machine.devices)
