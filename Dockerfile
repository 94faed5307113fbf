# noiserobust on the CPU, as a command:  docker build -t noiserobust . && docker run -v "$PWD:/work" noiserobust demo
FROM python:3.11-slim AS build
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY noiserobust /source/noiserobust
RUN python -m venv /opt/noiserobust \
 && /opt/noiserobust/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source[plots,page]"

FROM python:3.11-slim
COPY --from=build /opt/noiserobust /opt/noiserobust
RUN useradd --create-home --uid 1000 person && mkdir /work && chown person /work
ENV PATH=/opt/noiserobust/bin:$PATH PYTHONUNBUFFERED=1
USER person
WORKDIR /work
ENTRYPOINT ["noiserobust"]
CMD ["--help"]
