# syntax=docker/dockerfile:1
# docker build -t alluvium .
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS builder
ARG RUST_VERSION
# The image's own toolchain: without this rustup would fetch clippy and rustfmt for rust-toolchain.toml.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION} CARGO_TERM_COLOR=never
# librdkafka, OpenSSL, aws-lc and zstd are built from source.
RUN apt-get update \
  && apt-get install -y --no-install-recommends gcc g++ make cmake perl \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches live beside the layers, so a change of code builds our crates only.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
  --mount=type=cache,target=/src/target \
  cargo build --profile dist --locked --features vendored-openssl --bin alluvium \
  && install -D target/dist/alluvium /out/usr/local/bin/alluvium \
  && install -d /out/var/lib/alluvium /out/etc/alluvium/pipelines

# glibc, libgcc and CA certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder --chown=65532:65532 /out/ /
USER 65532:65532
WORKDIR /var/lib/alluvium
VOLUME /var/lib/alluvium
ENV ALLUVIUM_CONFIG=/etc/alluvium/alluvium.yaml
# Last barrier, last commit, exit 0; `alluvium run` gives itself 25 s for it.
STOPSIGNAL SIGTERM
# A binary that lacks a library never becomes an image.
RUN ["/usr/local/bin/alluvium", "--version"]
ENTRYPOINT ["/usr/local/bin/alluvium"]
CMD ["run"]
