FROM rust:1.95-bookworm AS build
WORKDIR /build
ENV CARGO_INCREMENTAL=0
# What ISA-L is built with.
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends autoconf automake libtool nasm && rm -rf /var/lib/apt/lists/*
# The dependencies in a layer of their own: it stays while only our code changes.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --release --locked --features isal \
    && rm -rf src target/release/deps/*fhir_bulk_export* target/release/.fingerprint/fhir-bulk-export-*
COPY .sqlx .sqlx
COPY migrations migrations
COPY config config
COPY src src
RUN cargo build --release --locked --features isal && strip target/release/fhir-bulk-export \
    && cp /usr/local/cargo/registry/src/*/isal-sys-*/isa-l/LICENSE target/isa-l-license

FROM debian:bookworm-slim
# The issuers' keys are fetched by https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/fhir-bulk-export /usr/local/bin/
COPY --from=build /build/target/isa-l-license /usr/share/doc/isa-l/LICENSE
COPY sample/*.ndjson /usr/share/fhir-bulk-export/sample/
USER 65532:65532
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["fhir-bulk-export", "health"]
ENTRYPOINT ["fhir-bulk-export"]
CMD ["serve"]
