package main

import "fmt"

// quickstartConfig is the configuration of a first start, with the hashes of the password of quickstartUser and of the
// SCEP challenge.
func quickstartConfig(password, challenge string) []byte {
	return fmt.Appendf(nil, `# Muster's configuration, as its first start wrote it. Relative paths start from this folder.
#   muster config check FILE    says what is wrong with it, with line numbers
#   muster serve --config FILE  runs it; SIGHUP reads it again, and a faulty file then changes nothing
version: 1

# Where it listens. A listener with "tls" speaks HTTPS; without "cert" and "key" files the gateway has a certificate
# issued for itself, by the CA under "server-certificate", and renews it.
listeners:
  http:
    address: 127.0.0.1:8080
  https:
    address: 127.0.0.1:8443
    tls: {}
    # tls:
    #   cert: server.pem        # the certificate, then its chain
    #   key: server.key
    #   min: "1.2"              # or "1.3"
    #   max: "1.3"              # "1.2" for oneM2M, with suites: [ECDHE_ECDSA_AES_128_CBC_SHA256]

# What must survive: transactions, certificates, the audit trail.
store: sqlite:muster.db         # or postgres://USER@HOST/DATABASE, which any number of gateways share

# The CAs. "local" is built in, and runs in a process of its own like every other.
backends:
  local:
    plugin: local
    config:
      dir: ca                   # two roots and their issuing CAs, "ec" (P-256, the default) and "rsa"
      issuers:                  # the URLs go into certificates: write there how your devices reach the listener "http"
        ec: {crl: ["http://127.0.0.1:8080/crl/local/{name}.crl"], ca-issuers: ["http://127.0.0.1:8080/ca/local/ec.p7c"]}
        rsa: {crl: ["http://127.0.0.1:8080/crl/local/{name}.crl"], ca-issuers: ["http://127.0.0.1:8080/ca/local/rsa.p7c"]}
        # bits: 2048 in rsa signs three times as fast as 3072; only before the first start
  # corp:
  #   plugin: /opt/corp/ca-plugin
  #   sha256: 64 hexadecimal digits; another executable is not run
  #   config: {}                # the plugin's own

# Who certifies the gateway's own listeners, and for which names beside localhost and this host's.
server-certificate:
  backend: local
  # names: [ra.example.com]

# Prometheus reads /metrics on these listeners.
metrics:
  listeners: [http]

# CRLs at /crl/local/NAME.crl and CA certificates at /ca/local/NAME.crt, for anybody.
distribution:
  listeners: [http]

# Kinds of certificate.
profiles:
  device:
    backend: local
    keys: [P-256, P-384, P-521, Ed25519, "RSA>=2048"]
    validity: 397d
    backdate: 5m                # for devices whose clock is slow
    key-usage: [digitalSignature]
    ext-key-usage: [clientAuth]
  mobile:                       # what SCEP's clients can use: RSA, from the leaf to the root
    backend: local
    issuer: rsa
    keys: ["RSA>=2048"]
    validity: 397d
    backdate: 5m
    key-usage: [digitalSignature, keyEncipherment]
    ext-key-usage: [clientAuth]

# Who may have which certificate. An operation that is not named here is denied; of those that are, every stage has
# to allow, from top to bottom.
endpoints:
  devices:                      # served at /.well-known/est/devices
    protocol: est
    listeners: [https]
    default: true               # and at /.well-known/est
    profile: device
    enroll:
      - password:
          users:                # "muster password" prints such hashes; this one's secret is in secrets/est-password
            factory: "%s"
      - names:                  # a subject; and the kinds of subjectAltName that stand here, each within a rule
          san: {dns: {}, ip: {}, email: {}, uri: {}}
    renew:
      - own-certificate: {}     # by a certificate that this endpoint issued, for the same names
    repeat: 10m                 # an equal request gets the same certificate for this long

  cmp:                          # served at /.well-known/cmp/p/cmp and /cmp/cmp
    protocol: cmp
    listeners: [http, https]    # its messages protect themselves
    default: true               # and at /.well-known/cmp and /cmp
    profile: device
    enroll:
      - anyOf:                  # either will do:
          - shared-secret:      # who knows a secret, by its reference (openssl cmp -ref, -secret)
              secrets: {factory: {file: secrets/cmp-secret}}
              devices: true     # and those that "muster secret add" gives to single devices
          - vendor-ca:          # who has a certificate of a vendor whose CA lies in this folder, in PEM files: they count
              dir: vendor-ca    # within two seconds, without a restart
              # serial: subject.serialNumber  # what names the device
      - names:
          san: {dns: {}, ip: {}, email: {}, uri: {}}
    renew:
      - own-certificate: {}
    revoke:                     # a device may revoke its own certificate
      - own-certificate: {}
    # cmp: {confirm: explicit, clock-skew: any}  # as 3GPP base stations want it

  scep:                         # served at /scep/scep
    protocol: scep
    listeners: [http, https]
    default: true               # and at /scep
    profile: mobile
    enroll:
      - challenge:              # the challengePassword; this one is in secrets/scep-challenge
          secrets: {factory: "%s"}
      - names:
          san: {dns: {}, ip: {}, email: {}, uri: {}}
    renew:
      - own-certificate: {}
    scep:
      legacy: [des, sha1]       # scepclient and other old clients know nothing better; delete this line where yours do
`, password, challenge)
}
