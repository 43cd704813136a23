# cardiojax for CUDA nodes: docker build -t cardiojax . && docker run --gpus all -v $PWD:/workspace cardiojax train …
# JAX's wheels bring CUDA; the host needs the driver alone.
FROM python:3.12-slim
WORKDIR /opt/cardiojax
COPY pyproject.toml README.md LICENSE ./
COPY cardiojax cardiojax
COPY data_builders data_builders
RUN pip install --no-cache-dir '.[cuda]'
ENV JAX_COMPILATION_CACHE_DIR=/workspace/.jax-cache
WORKDIR /workspace
ENTRYPOINT ["cardiojax"]
CMD ["--help"]
