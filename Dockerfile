# The image: one static program and nothing else, so that there is nothing in it to keep up to date but the program itself.
#
#   docker build -t evercert .        podman and buildah do as well; other architectures by their own builders or by emulation

# The version is that of rust-toolchain.toml; a test compares them.
FROM rust:1.95.0-bookworm AS build
# The toolchain is here already: nothing is to be fetched for the components that rust-toolchain.toml names.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /source
COPY . .
ARG TARGETARCH
RUN install -D "$(sh controller/static.sh evercert "$TARGETARCH")" /out/evercert

# Where the program has been built already, `--build-context build=DIR` puts DIR/out/evercert into this same stage.
FROM scratch
LABEL org.opencontainers.image.title="Evercert" \
      org.opencontainers.image.description="TLS certificates from an ACME certificate authority, kept good: controller and solver" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /out/evercert /evercert
USER 65532:65532
ENTRYPOINT ["/evercert"]
