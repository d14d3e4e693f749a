# For a host with an NVIDIA GPU and the NVIDIA container toolkit; compose.yaml shows how to run it.
FROM python:3.11-slim

# an unprivileged user: a container that serves a network holds no more rights than it needs
RUN useradd --create-home --uid 1000 paddock && install -d -o paddock -g paddock /data /models
WORKDIR /opt/paddock

# torch first and by itself: by far the largest layer, and the one that changes least
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md ./
COPY configs configs
COPY paddock paddock
COPY pipelines pipelines
COPY server server
RUN pip install --no-cache-dir --constraint constraints.txt '.[postgres]'

USER paddock
WORKDIR /home/paddock
# inside a container every address is the container's own, and nobody knows here who can reach its port: a key is needed,
# and the first start makes one
ENV PADDOCK_HOST=0.0.0.0 \
    PADDOCK_FIRST_KEY=true \
    PADDOCK_DATA_DIR=/data \
    HF_HOME=/models
VOLUME ["/data", "/models"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["paddock"]
CMD ["serve"]
