# Muster in a container: one static binary, no shell, not root, nothing written but to /data.
#   docker build -t muster --build-arg VERSION="$(git describe --tags --always)" .
#   docker run -p 8080:8080 -p 8443:8443 -v muster:/data muster
# docs/install.md says the rest. For both architectures: docker buildx build --platform linux/amd64,linux/arm64 .
# Its features are those that Docker's BuildKit, podman and buildah have in common; no frontend is fetched.
ARG BUILD_IMAGE=docker.io/library/golang:1.26-bookworm

# The compiler runs on the machine that builds, and makes what the other one runs.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
WORKDIR /src
ARG GOPROXY=https://proxy.golang.org,direct
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS=linux TARGETARCH
ARG VERSION=devel
# .ci/build says what makes the binary small. What the final image has beside it: CA certificates for calls that leave (webhooks, CAs, sinks), a
# name for the user, and /data as the user's, which a new volume takes over.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH RELEASE=$VERSION sh .ci/build /out/usr/bin/muster && \
    mkdir -p /out/etc/ssl/certs /data/ca && \
    cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ && \
    echo 'muster:x:65532:65532::/data:/usr/bin/muster' > /out/etc/passwd && \
    echo 'muster:x:65532:' > /out/etc/group && \
    chmod 700 /data /data/ca

FROM scratch
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Muster" \
      org.opencontainers.image.description="Certificate enrollment gateway: CMP, EST and SCEP in front of any CA" \
      org.opencontainers.image.source="https://github.com/muster-pki/muster" \
      org.opencontainers.image.documentation="https://github.com/muster-pki/muster/blob/main/docs/install.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/ /
COPY --from=build --chown=65532:65532 /data /data
# Temporary files of the database go to the volume: there is no /tmp.
ENV PATH=/usr/bin TMPDIR=/data
USER 65532:65532
VOLUME /data
EXPOSE 8080 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["muster", "status", "--data", "/data"]
ENTRYPOINT ["muster"]
# The instance has a name that stays: containers get another host name each.
CMD ["serve", "--container", "--data", "/data", "--instance", "muster"]
