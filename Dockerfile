# One image for the sidecar (`sidegate run`) and the demonstration application (`python /opt/upstream_app/app.py`).

FROM python:3.11-slim AS build
# 1: mypyc compiles the path of a request, which takes some minutes (docs/adr/0009). 0: pure Python.
ARG SIDEGATE_COMPILE=1
RUN [ "$SIDEGATE_COMPILE" != 1 ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; }
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/sidegate
# Packages first: a change of the code does not install them again.
COPY requirements/build.txt requirements/image.txt requirements/
# The compiler reads the types of all packages, so the build has them too.
RUN /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes -r requirements/build.txt -r requirements/image.txt \
 && /opt/build/bin/pip --python /opt/sidegate/bin/python install --no-cache-dir --disable-pip-version-check \
      --require-hashes -r requirements/image.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY docs/operations.md docs/
COPY proxy proxy
RUN /opt/build/bin/hatchling build --target wheel --directory dist \
 && /opt/build/bin/pip --python /opt/sidegate/bin/python install --no-cache-dir --disable-pip-version-check --no-deps dist/*.whl \
 && /opt/sidegate/bin/python -m compileall -q /opt/sidegate/lib

FROM python:3.11-slim
COPY --from=build /opt/sidegate /opt/sidegate
COPY upstream_app/app.py /opt/upstream_app/app.py
# The sidecar writes no files, so the root file system may be read-only.
ENV PATH=/opt/sidegate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 CONFIG=/etc/sidegate/config.yaml
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
# Checks the process alone: a sidecar whose store or application is down must not be killed.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["python", "-c", "import http.client, os; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('ADMIN_PORT') or 9901), timeout=2); \
c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["sidegate", "run"]
