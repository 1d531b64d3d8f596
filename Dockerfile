# Two images that serve a model repository: `gpu` is NVIDIA's Triton with what the preparation step needs, `cpu` is
# `periscope serve`. How to build and run them: deploy/README.md.
ARG PYTHON_TAG=3.11.15-slim-bookworm
ARG TRITON_TAG=26.08-py3

# The wheel of both, without the packages that nobody serves with: demo, perf and testing.
FROM python:${PYTHON_TAG} AS wheel
# Given to the build, it makes the wheel the same to the byte.
ARG SOURCE_DATE_EPOCH
WORKDIR /source
RUN python -m pip install --no-cache-dir setuptools==84.2.1
COPY pyproject.toml README.md LICENSE ./
COPY export export
COPY runtime runtime
COPY model_repository model_repository
COPY serve serve
COPY clients clients
RUN python -m pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /wheel .


FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG} AS gpu
# Into the system's Python: it is the one that Triton's Python backend runs.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,source=deploy/requirements-gpu.txt,target=/requirements.txt \
    python3 -m pip install --no-cache-dir --break-system-packages --no-deps --only-binary=:all: \
        -r /requirements.txt /wheel/*.whl \
    # TensorRT engines that ONNX Runtime builds at the first start, kept for the next.
    && install -d -o 1000 -g 1000 /var/cache/periscope
COPY --chmod=0755 deploy/periscope-triton /usr/local/bin/periscope-triton
# NVIDIA's user triton-server; a number, so that Kubernetes can see that it is not root.
USER 1000:1000
RUN python3 -c "import periscope_runtime.prepare" && periscope-healthcheck --help && periscope-drain --help
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=20s --timeout=30s --start-period=15m --retries=3 CMD ["periscope-healthcheck"]
# NVIDIA's entry point stays: it checks the driver and runs the command.
CMD ["periscope-triton"]


FROM python:${PYTHON_TAG} AS cpu
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,source=deploy/requirements-cpu.txt,target=/requirements.txt \
    python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: -r /requirements.txt /wheel/*.whl \
    && python3 -m pip check \
    && useradd --uid 1000 --create-home --shell /usr/sbin/nologin periscope
USER 1000:1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=20s --timeout=30s --start-period=15m --retries=3 CMD ["periscope-healthcheck"]
ENTRYPOINT ["periscope"]
CMD ["serve", "/models", "--host", "0.0.0.0", "--start-timeout", "900"]
