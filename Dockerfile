# The base is an argument, so that a mirror, a digest or another distribution can take its place. Pin it by digest for
# production: docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:<digest> (see docs/operations.md).
# Both stages must be the same image: a virtual environment belongs to the interpreter and the path it was made for.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# pip stays outside of the environment that is shipped.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
 && python3 -m venv --without-pip /opt/venv \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes --only-binary=:all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl \
 && /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mailvitals" \
      org.opencontainers.image.description="Self-hosted e-mail deliverability monitor" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/venv /opt/venv
# The embedded store; a volume mounted here must be writable by this user.
RUN mkdir -p /etc/mailvitals /var/lib/mailvitals && chown 65532:65532 /var/lib/mailvitals
USER 65532:65532
WORKDIR /var/lib/mailvitals
EXPOSE 8080 8081
ENTRYPOINT ["mailvitals"]
CMD ["run", "--config", "/etc/mailvitals/mailvitals.yaml"]
