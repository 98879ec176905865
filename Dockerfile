# Two stages: the second holds no compiler, no package index settings and no source besides ours.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/qguard
COPY requirements.lock requirements-build.lock ./
RUN /opt/qguard/bin/pip install --no-cache-dir --require-hashes -r requirements.lock -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY qguard qguard
COPY allocators allocators
RUN /opt/qguard/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/qguard/bin/pip uninstall -y hatchling editables

FROM python:3.13-slim
LABEL org.opencontainers.image.title="qguard" \
      org.opencontainers.image.description="Per-tracker upload caps for qBittorrent" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/qguard /opt/qguard
ENV PATH=/opt/qguard/bin:$PATH PYTHONUNBUFFERED=1 QGUARD_CONFIG=/config/qguard.yaml
RUN useradd --uid 1000 --create-home qguard && install -d -o qguard /config
USER qguard
WORKDIR /config
VOLUME /config
EXPOSE 8089
# /health is cheap and public, and never asks qBittorrent; 503 means that the loop stands still.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-c", \
 "import os,urllib.request as r; r.urlopen('http://127.0.0.1:'+os.environ.get('QGUARD_PORT','8089')+'/health',timeout=4)"]
ENTRYPOINT ["qguard"]
CMD ["run"]
