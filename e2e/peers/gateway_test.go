//go:build peers

// Package peers runs the real binary against CMP and EST implementations that are not ours, as second opinions: BouncyCastle (clients
// in bc/), OpenSSL 3.5 and GlobalSign's EST client. `make peers` gets them and runs this; a peer that is missing is a failure.
package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

var (
	binary  string // cmd/muster
	classes string // the compiled bc/
	tools   string // what .ci/peers fetched
)

func TestMain(m *testing.M) {
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepared(m *testing.M) (int, error) {
	if tools = os.Getenv("MUSTER_PEERS"); tools == "" {
		return 1, fmt.Errorf("MUSTER_PEERS is not set: run `make peers`")
	}
	dir, err := os.MkdirTemp("", "muster-peers-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary, classes = filepath.Join(dir, "muster"), filepath.Join(dir, "classes")
	sources, err := filepath.Glob("bc/*.java")
	if err != nil {
		return 1, err
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("go", "build", "-o", binary, "../../cmd/muster"),
		exec.Command("javac", append([]string{"-cp", jars(), "-d", classes}, sources...)...),
		exec.Command(filepath.Join(tools, "openssl"), "version"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return m.Run(), nil
}

// jars is the class path of BouncyCastle.
func jars() string {
	java := filepath.Join(tools, "usr/share/java")
	return strings.Join([]string{filepath.Join(java, "bcpkix.jar"), filepath.Join(java, "bcprov.jar"), filepath.Join(java, "bcutil.jar"), filepath.Join(java, "bctls.jar")}, ":")
}

// gateway is one that runs, for the peers.
type gateway struct{ *running.Gateway }

// The beginning of each configuration. The listener's port becomes a fixed one when the gateway has been started.
const beginning = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, issuers: {p384: {key: P-384}, ed: {key: Ed25519}}}}
`

// secret is what devices share with the reference factory.
const secret = "what all devices of the factory share"

// start runs the gateway on a configuration that begins with beginning, in a folder that the scripts prepare first.
func start(t *testing.T, config string, scripts ...string) *gateway {
	t.Helper()
	return startWith(t, beginning+config, scripts...)
}

// startWith is start on a whole configuration.
func startWith(t *testing.T, config string, scripts ...string) *gateway {
	t.Helper()
	keep := "umask 077; printf '%s' '" + secret + "' >factory.secret"
	return &gateway{running.Start(t, binary, []string{"NEW=" + filepath.Join(tools, "openssl")}, config, append([]string{keep}, scripts...)...)}
}

// vendor makes the vendor's CA (vendor-ca/ca.pem) and a device certificate of each kind of key: rsa.pem, P-256.pem, ...
const vendor = `mkdir vendor-ca
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout vendor-ca.key -subj "/O=Vendor/CN=Vendor Root" -days 3650 -out vendor-ca/ca.pem 2>/dev/null
device() {
	name=$1; shift
	openssl genpkey "$@" -out $name.key 2>/dev/null
	openssl req -new -key $name.key -subj "/O=Vendor/CN=device $name" -out $name.csr
	printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment,keyAgreement\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' >device.ext
	openssl x509 -req -in $name.csr -CA vendor-ca/ca.pem -CAkey vendor-ca.key -CAcreateserial -days 3650 -extfile device.ext -out $name.pem 2>/dev/null
}
device rsa -algorithm RSA -pkeyopt rsa_keygen_bits:2048
for curve in P-256 P-384 P-521; do device $curve -algorithm EC -pkeyopt ec_paramgen_curve:$curve; done
device Ed25519 -algorithm ED25519
`

// authority makes an RA: ra.pem, of ra-ca.pem.
const authority = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ra-ca.key -subj "/CN=RA CA" -days 30 -out ra-ca.pem 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ra.key -subj "/CN=RA" -out ra.csr 2>/dev/null
printf 'keyUsage=digitalSignature\nextendedKeyUsage=1.3.6.1.5.5.7.3.28\nsubjectKeyIdentifier=hash\n' >ra.ext
openssl x509 -req -in ra.csr -CA ra-ca.pem -CAkey ra-ca.key -CAcreateserial -days 30 -extfile ra.ext -out ra.pem 2>/dev/null
`
