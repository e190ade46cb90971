# forkpy's image: libc, the bundle's directory, nobody's rights. From a checkout:
#
#     cargo run --release -- bundle && docker build -t forkpy .
#     docker run --rm -i -v "$PWD:/work" forkpy                                    # stdio
#     docker run --rm -p 127.0.0.1:8000:8000 -e FORKPY_TOKEN=... forkpy --transport http --host 0.0.0.0
FROM debian:12-slim
# Docker's name of the machine: amd64, arm64. dist/ may hold the archives of both.
ARG TARGETARCH=amd64
LABEL io.modelcontextprotocol.server.name="io.github.forkpy/forkpy"
RUN --mount=type=bind,source=dist,target=/dist \
    machine=$(echo "$TARGETARCH" | sed 's/amd64/x86_64/; s/arm64/aarch64/') \
    && tar -xzf /dist/forkpy-*-linux-"$machine".tar.gz -C /opt \
    && ln -s /opt/forkpy-*/bin/forkpy /usr/local/bin/forkpy \
    && useradd --uid 10001 --create-home forkpy \
    && install -d -o forkpy -g forkpy /work
USER 10001:10001
WORKDIR /work
# Sessions may start processes that outlive their parents; forkpy reaps them, also as the first process.
ENTRYPOINT ["/usr/local/bin/forkpy", "--workspace", "/work"]
