# For a host with an NVIDIA GPU and the NVIDIA container toolkit; compose.yaml shows how to run it, docs/container.md more.
FROM python:3.11-slim

# Blocks are compiled while the server runs. On a GPU, Triton then calls gcc, with Python's headers, which the base image
# has; on a CPU inductor calls g++, which brings gcc and the headers of the C library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# An unprivileged user: a container that serves a network holds no more rights than it needs. Any other user works too:
# a platform that chooses a number, as OpenShift does, runs it in the group root.
RUN useradd --create-home --uid 1000 paddock && install -d -o paddock -g root -m 0775 /data /models
WORKDIR /opt/paddock

# torch first and by itself: by far the largest layer, and the one that changes least
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md ./
COPY configs configs
COPY paddock paddock
COPY pipelines pipelines
COPY server server
# `--build-arg EXTRAS=cluster` adds Ray, for a container that joins a cluster
ARG EXTRAS=""
RUN pip install --no-cache-dir --constraint constraints.txt ".[postgres,object-store,fp8-attention${EXTRAS:+,$EXTRAS}]"

USER paddock
# a place where every user may be, and may write even if the rest is read-only
WORKDIR /data
# inside a container every address is the container's own, and nobody knows here who can reach its port: a key is needed,
# and the first start makes one
ENV PADDOCK_HOST=0.0.0.0 \
    PADDOCK_FIRST_KEY=true \
    PADDOCK_DATA_DIR=/data \
    HF_HOME=/models
VOLUME ["/data", "/models"]
EXPOSE 8000
# by a connection of its own: urllib would ask a proxy that the variables of the container name
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-Ic", "import http.client, os; p = os.environ.get('PADDOCK_PORT', '').strip(); c = http.client.HTTPConnection('127.0.0.1', int(p) if p.isdecimal() else 8000, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["paddock"]
CMD ["serve"]
