# One image for every node; docker-compose.yml starts it for each of them.
FROM python:3.12-slim AS build
WORKDIR /src
# For the compiled core of the data plane; without them the wheel would have Python's alone. Intel's library, which makes
# AES-GCM faster, is there for x86-64 only.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libssl-dev \
    $(apt-cache search --names-only '^libipsec-mb-dev$' | cut -d ' ' -f 1) \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/epdg
COPY pyproject.toml README.md LICENSE ./
COPY protocols protocols
COPY epdg epdg
COPY aaa aaa
COPY ue ue
COPY dashboards dashboards
COPY lab lab
RUN /opt/epdg/bin/pip install --no-cache-dir ".[postgresql]"

FROM python:3.12-slim
# ping is for whoever tries the tunnel; the nodes do without it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iputils-ping \
    $(apt-cache search --names-only '^libipsec-mb[0-9]+$' | cut -d ' ' -f 1) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/epdg /opt/epdg
COPY docker/entrypoint.py /opt/epdg/docker/
ENV PATH=/opt/epdg/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "/opt/epdg/docker/entrypoint.py"]
