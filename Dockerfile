# One image for each framework, and one for callers:
#
#   docker build --target torch -t gradwire:torch-cuda --build-arg ACCELERATOR=cuda .     (CUDA: torch's wheels bring its libraries)
#   docker build --target torch -t gradwire:torch --build-arg TORCH_INDEX=URL .           (CPU: URL of PyTorch's index of CPU builds)
#
# Without TORCH_INDEX pip finds a torch that brings gigabytes of CUDA and also works without a GPU.
#
# Targets: torch, tensorflow, jax, sklearn, gpy, mxnet (CPU only), ray (torch on a Ray cluster), demo, client. Each has two layers on the base: its framework,
# reinstalled when its requirements change, and gradwire itself, which is small.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="gradwire" \
      org.opencontainers.image.description="Serves a model's estimator operations over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/gradwire/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# User 10001 exists on no host. /var/lib/gradwire is for state_dir; /tmp is the only other place written to.
RUN groupadd --gid 10001 gradwire \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/gradwire --create-home --shell /usr/sbin/nologin gradwire \
 && python -m venv /opt/gradwire
WORKDIR /var/lib/gradwire

# The packages of each image, in files that change only when the packages do.
FROM base AS requirements
ARG ACCELERATOR=cpu
COPY pyproject.toml /source/
COPY deploy/docker/requirements.py /source/
RUN python /source/requirements.py /source/pyproject.toml /requirements "$ACCELERATOR"

# gradwire itself.
FROM base AS wheel
COPY pyproject.toml README.md LICENSE /source/
COPY proto /source/proto
COPY client /source/client
COPY server /source/server
COPY backends /source/backends
RUN pip wheel --no-deps --wheel-dir /wheel /source

# The common part of all servers, without frameworks. Metadata only: changing it reinstalls nothing.
FROM base AS server
COPY constraints.txt /opt/gradwire/
EXPOSE 50051 50052 9464
VOLUME /var/lib/gradwire
STOPSIGNAL SIGTERM
# The data port may require TLS and certificates; health has a listener of its own in the clear (health_listen).
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["gradwire", "health", "127.0.0.1:50052"]
ENTRYPOINT ["gradwire", "serve", "/etc/gradwire/serve.yaml"]

# Frameworks.

FROM server AS torch-framework
ARG TORCH_INDEX=
# Install torch first, pinned, and from its own index if one is named: together with the others, pip may choose another version.
RUN pip install --constraint /opt/gradwire/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
COPY --from=requirements /requirements/torch.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/torch.txt

FROM server AS tensorflow-framework
COPY --from=requirements /requirements/tensorflow.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/tensorflow.txt

FROM server AS jax-framework
COPY --from=requirements /requirements/jax.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/jax.txt

FROM server AS sklearn-framework
COPY --from=requirements /requirements/sklearn.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/sklearn.txt

FROM server AS gpy-framework
COPY --from=requirements /requirements/gpy.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/gpy.txt

FROM server AS mxnet-framework
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 libquadmath0 \
 && rm -rf /var/lib/apt/lists/*
COPY constraints-mxnet.txt /opt/gradwire/
COPY --from=requirements /requirements/mxnet.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints-mxnet.txt --requirement /opt/gradwire/mxnet.txt

# Replicas of torch models on a Ray cluster, and the front.
FROM torch-framework AS ray-framework
COPY --from=requirements /requirements/ray.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/ray.txt

# Images. gradwire comes last, so that changing it rebuilds one small layer.

FROM tensorflow-framework AS tensorflow
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

FROM jax-framework AS jax
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

FROM sklearn-framework AS sklearn
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

FROM gpy-framework AS gpy
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

FROM mxnet-framework AS mxnet
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

# Callers: only numpy, grpcio, protobuf and the commands.
FROM base AS client
COPY constraints.txt /opt/gradwire/
COPY --from=requirements /requirements/client.txt /opt/gradwire/
RUN pip install --constraint /opt/gradwire/constraints.txt --requirement /opt/gradwire/client.txt
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001
ENTRYPOINT ["gradwire"]
CMD ["--help"]

FROM torch-framework AS torch
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

FROM ray-framework AS ray
COPY --from=wheel /wheel /opt/gradwire/wheel
RUN pip install --no-deps /opt/gradwire/wheel/*.whl
USER 10001:10001

# The demo's model, trained while the image is built (seconds): `docker compose up` serves it unedited.
FROM torch AS demo
USER 0
RUN pip install --constraint /opt/gradwire/constraints.txt scikit-learn==1.9.1
COPY deploy/docker/demo.yaml /etc/gradwire/serve.yaml
RUN python -c "from pathlib import Path; from gradwire.server.demo.model import train; train(Path('/etc/gradwire/digits.safetensors'), print)" \
 && chmod -R a+rX /etc/gradwire
USER 10001:10001
