"""What a platform's compiler is told of a program that is not its default."""

# one launch in place of a hundred: a GPU's command buffer of all that a call does, its convolutions too
# (not for trainings: contours' died of it, cuDNN status 5003, where processes shared an H200; jax 0.11.2)
AS_ONE_GRAPH = {"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION",
                "xla_gpu_graph_min_graph_size": 1}
# with two images a chip this pass, which is for small batches, ends the compiler of libtpu 0.0.42 (a kernel's gradient)
ON_TPU = {"xla_disable_hlo_passes": "space-to-batch-converter"}
