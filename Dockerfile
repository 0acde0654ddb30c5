# make image && docker run --rm --publish 127.0.0.1:8888:8888 xmodal          JupyterLab; the address it prints holds the token
# docker run --rm --volume xmodal-results:/home/jovyan/results xmodal make reproduce
# make image GPU=1 && docker run --gpus all ... xmodal      With CUDA 13; the machine brings the driver and the NVIDIA container toolkit.
# make image CA=/path/to/ca.crt      Behind a proxy with a certificate of its own, which the image then trusts.
# By digest, since a tag can be moved. Another base, such as a company's copy, is named by --build-arg BASE=...
ARG BASE=debian:12.11-slim@sha256:b1a741487078b369e78119849663d7f1a5341ef2768798f7b7406c4240f86aef
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
LABEL org.opencontainers.image.title="xmodal" org.opencontainers.image.licenses="Apache-2.0"

ARG CA=
RUN apt-get update --yes \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates fonts-liberation g++ git make python3 python3-dev python3-venv tini \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 && { test -z "$CA" || { echo "$CA" > /usr/local/share/ca-certificates/proxy.crt && update-ca-certificates; }; } \
 && useradd --no-log-init --create-home --shell /bin/bash --uid 1000 --gid 100 --no-user-group jovyan \
 && install --directory --owner 1000 --group 100 /home/jovyan/xmodal /home/jovyan/results

ENV LANG=C.UTF-8 LC_ALL=C.UTF-8 SHELL=/bin/bash HOME=/home/jovyan XMODAL_HOME=/home/jovyan/results
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
USER 1000:100
WORKDIR /home/jovyan/xmodal

# The environment changes seldom and the project often, so the project comes last. CA, which make takes for a file's name, is its text here.
COPY --chown=1000:100 Makefile requirements*.lock ./
COPY --chown=1000:100 xmodal/runtime/slim.py xmodal/runtime/
ARG GPU=
RUN UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 make env CA= GPU=$GPU
COPY --chown=1000:100 . .
RUN touch .venv/.stamp*

EXPOSE 8888
# JupyterLab has to answer, if that is what runs: a batch run such as `make reproduce` is healthy as long as it lasts.
# A proxy that the environment names is not asked for an address of this machine.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-c", "import pathlib, urllib.request as u; \
  b'lab' not in pathlib.Path('/proc/1/cmdline').read_bytes().split(bytes(1)) or \
  u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8888/api', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
# An unset or empty JUPYTER_TOKEN makes the server draw a token of its own; it is never without one.
CMD ["make", "lab", "IP=0.0.0.0"]
