//go:build peers

// Package peers runs the real binary against CMP and EST implementations that are not ours, as second opinions: BouncyCastle (clients
// in bc/), OpenSSL 3.5 and GlobalSign's EST client. `make peers` gets them and runs this; a peer that is missing is a failure.
package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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

// gateway is one that runs, in a folder where its configuration and the peers' files are.
type gateway struct {
	t      *testing.T
	dir    string
	url    string // http://host:port
	cmd    *exec.Cmd
	exited chan struct{}
	log    *output
}

// output keeps what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

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
	g := &gateway{t: t, dir: t.TempDir()}
	t.Cleanup(g.stop)
	g.write("gateway.yaml", config)
	g.write("factory.secret", secret)
	for _, s := range scripts {
		g.sh(s)
	}
	g.again()
	return g
}

func (g *gateway) write(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(g.file(name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) file(name string) string { return filepath.Join(g.dir, name) }

var listening = regexp.MustCompile(`msg=listening listener=http address=(\S+)`)

// again starts the gateway, after stopping the one that runs. It is reached where it was.
func (g *gateway) again() {
	g.t.Helper()
	g.stop()
	g.cmd = exec.Command(binary, "serve", "--config", g.file("gateway.yaml"), "--data", g.dir)
	g.exited, g.log = make(chan struct{}), &output{}
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	cmd, exited := g.cmd, g.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(exited)
	}()
	for range 3000 {
		if log := g.log.String(); strings.Contains(log, "msg=ready") {
			address := listening.FindStringSubmatch(log)[1]
			g.url = "http://" + address
			config, err := os.ReadFile(g.file("gateway.yaml"))
			if err != nil {
				g.t.Fatal(err)
			}
			g.write("gateway.yaml", strings.Replace(string(config), "127.0.0.1:0", address, 1))
			return
		}
		select {
		case <-g.exited:
			g.t.Fatalf("the gateway ended\n%s", g.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.t.Fatalf("not ready\n%s", g.log)
}

func (g *gateway) stop() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	g.cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // it may have ended
	select {
	case <-g.exited:
	case <-time.After(20 * time.Second):
		g.cmd.Process.Kill() //nolint:errcheck // as above
		<-g.exited
		g.t.Errorf("the gateway did not stop on SIGINT\n%s", g.log)
	}
	if g.t.Failed() && testing.Verbose() {
		g.t.Logf("the gateway's log:\n%s", g.log)
	}
}

// run runs a command in the gateway's folder: what it printed, and whether it succeeded.
func (g *gateway) run(name string, args ...string) (string, bool) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "URL="+g.url, "NEW="+filepath.Join(tools, "openssl"), "MUSTER="+binary)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	return string(out), err == nil
}

// sh runs a script that has to succeed, in the gateway's folder.
func (g *gateway) sh(script string) string {
	g.t.Helper()
	out, ok := g.run("sh", "-euc", script)
	if !ok {
		g.t.Fatalf("%s\n%s", script, out)
	}
	return out
}

func (g *gateway) muster(args ...string) string {
	g.t.Helper()
	out, ok := g.run(binary, append(args, "--data", g.dir)...)
	if !ok {
		g.t.Fatalf("muster %s:\n%s", strings.Join(args, " "), out)
	}
	return out
}

// transaction is what `muster ls --json` says of one.
type transaction struct{ ID, State, Subject string }

// transactions are those whose subject holds the name, newest first.
func (g *gateway) transactions(name string) []transaction {
	g.t.Helper()
	var all, found []transaction
	if err := json.Unmarshal([]byte(g.muster("ls", "--json", "--limit", "1000")), &all); err != nil {
		g.t.Fatal(err)
	}
	for _, tx := range all {
		if strings.Contains(tx.Subject, name) {
			found = append(found, tx)
		}
	}
	return found
}

// state is that of the newest transaction of a name.
func (g *gateway) state(name string) string {
	g.t.Helper()
	if all := g.transactions(name); len(all) > 0 {
		return all[0].State
	}
	return ""
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
