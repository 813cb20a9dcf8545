# One image for every node; docker-compose.yml starts it four times.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/epdg
COPY pyproject.toml README.md LICENSE ./
COPY protocols protocols
COPY epdg epdg
COPY aaa aaa
COPY ue ue
COPY dashboards dashboards
COPY lab lab
RUN /opt/epdg/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/epdg /opt/epdg
COPY docker/entrypoint.py docker/credentials.py /opt/epdg/docker/
ENV PATH=/opt/epdg/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "/opt/epdg/docker/entrypoint.py"]
