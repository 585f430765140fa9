# Images of the service, one target each: api (migrations and sweeper, too; no torch), worker, worker-gpu.
# docs/deploy.md says how they are built and run.

ARG PYTHON_IMAGE=python:3.11.16-slim-bookworm


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY api api
COPY embedded embedded
COPY migrations migrations
COPY pruning pruning
COPY store store
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /wheels .


# Every environment is made in the place where it will lie: scripts name their interpreter by its path.
FROM ${PYTHON_IMAGE} AS environment
RUN python -m venv /opt/espalier
ENV PATH=/opt/espalier/bin:$PATH
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheels /wheels


FROM environment AS api-environment
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c /constraints.txt "$(echo /wheels/*.whl)[otel]"


# TORCH_INDEX is the address of an index that carries the build of torch that is wanted, say for CPUs alone or for one
# version of CUDA; left out, it is the build that pip finds by itself. The version is the constraints' in any case.
FROM environment AS worker-environment
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c /constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(echo /wheels/*.whl)[worker,onnx,otel]"


FROM environment AS worker-gpu-environment
ARG TORCH_INDEX_GPU=""
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c /constraints.txt ${TORCH_INDEX_GPU:+--extra-index-url "$TORCH_INDEX_GPU"} \
    "$(echo /wheels/*.whl)[worker,onnx,otel]"


FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 espalier \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin espalier \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/espalier
# PYTHONSAFEPATH: no module is ever taken from the folder that a process happens to stand in.
ENV PATH=/opt/espalier/bin:$PATH \
    ESPALIER_DATA_DIR=/var/lib/espalier \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 10001:10001


FROM runtime AS api
COPY --from=api-environment /opt/espalier /opt/espalier
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "api.app:served", "--factory", "--host", "0.0.0.0", "--port", "8000", "--no-access-log"]


FROM runtime AS worker
COPY --from=worker-environment /opt/espalier /opt/espalier


FROM runtime AS worker-gpu
COPY --from=worker-gpu-environment /opt/espalier /opt/espalier
# What NVIDIA's container runtime brings into the container.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
