package e2e

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// link is the way from an edge gateway to its central one. It may be cut.
type link struct {
	t       testing.TB
	address string // of its near end
	to      string // of its far end

	mu       sync.Mutex
	how      string // "up"; "down": nobody listens; "hangs": nothing comes back; "cut": what was sent arrives, and the answer does not
	listener net.Listener
	open     map[net.Conn]bool
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{t: t, address: l.Addr().String(), to: to, how: "up", listener: l, open: map[net.Conn]bool{}}
	go k.serve(l)
	t.Cleanup(func() { k.is("down") })
	return k
}

// is changes it, also for connections that are open.
func (k *link) is(how string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.how = how
	for c := range k.open {
		c.Close()
		delete(k.open, c)
	}
	if how == "down" {
		if k.listener != nil {
			k.listener.Close()
			k.listener = nil
		}
		return
	}
	if k.listener == nil {
		l, err := net.Listen("tcp", k.address)
		if err != nil {
			k.t.Fatal(err)
		}
		k.listener = l
		go k.serve(l)
	}
}

func (k *link) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		k.open[c] = true
		how := k.how
		k.mu.Unlock()
		go k.carry(c, how)
	}
}

func (k *link) carry(c net.Conn, how string) {
	defer c.Close()
	if how == "hangs" {
		io.Copy(io.Discard, c) //nolint:errcheck // until somebody closes it
		return
	}
	far, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer far.Close()
	k.mu.Lock()
	k.open[far] = true
	k.mu.Unlock()
	go io.Copy(far, c) //nolint:errcheck // until one of them closes
	if how == "cut" {
		far.Read(make([]byte, 1)) //nolint:errcheck // the answer begins: it was taken
		return
	}
	io.Copy(c, far) //nolint:errcheck // as above
}

// The central gateway certifies what an RA asks for.
const linkCentralConfig = onLocalCA + `profiles:
  device: {backend: local, issuer: rsa, validity: 90d, ask: {validity: allow}}
endpoints:
  ra:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll: [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}, names: {san: {dns: {}}}]
    cmp: {clock-skew: 1d}
    repeat: 1d
`

// The edge decides, and asks the central gateway over the link.
const edgeLinkConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
backends:
  central:
    plugin: cmp
    offline: {keep: 5000, for: 1d}
    config: {url: http://LINK/.well-known/cmp/p/ra, sign: {cert: ra.pem, key: ra.key}, trust: roots.pem, repeats: true, timeout: 1s}
profiles:
  device: {backend: central, validity: 30d}
endpoints:
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    ra: {cert: ra.pem, key: ra.key}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}}}, names: {san: {dns: {}}}]
    cmp: {retry-after: 1s}
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {san: {dns: {}}}]
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: device
    ra: {cert: scep-ra.pem, key: scep-ra.key}
    enroll: [challenge: {file: challenges}, names: {san: {dns: {}}}]
`

// edgeFiles makes an RA CA, and what the edge shows as an RA below it.
const edgeFiles = `umask 077
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ra-ca.key 2>/dev/null
openssl req -x509 -new -key ra-ca.key -subj "/CN=RA CA" -days 30 -out ra-ca.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ra.key 2>/dev/null
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out scep-ra.key 2>/dev/null
printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=1.3.6.1.5.5.7.3.28,serverAuth\nsubjectKeyIdentifier=hash\nsubjectAltName=IP:127.0.0.1\n' > ra.ext
for who in ra scep-ra; do
  openssl req -new -key $who.key -subj "/CN=Edge $who" | openssl x509 -req -CA ra-ca.pem -CAkey ra-ca.key -CAcreateserial -days 30 -extfile ra.ext -out $who.pem 2>/dev/null
done
printf 'the secret of the factory' > factory.secret
`

// linked is an edge gateway, the link, and the central gateway behind it.
type linked struct {
	edge, central *instance
	link          *link
}

func startLinked(t *testing.T) *linked {
	t.Helper()
	dir := t.TempDir()
	shell := &instance{t: t, dir: dir}
	shell.sh(dir, edgeFiles)
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	l := &linked{central: configured(t, linkCentralConfig, "ra-ca.pem", read("ra-ca.pem"))}
	l.link = newLink(t, l.central.listening("http"))
	roots, err := os.ReadFile(filepath.Join(l.central.dir, "ca", "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"roots.pem", string(roots), "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge")}
	for _, name := range []string{"ra.pem", "ra.key", "ra-ca.pem", "scep-ra.pem", "scep-ra.key", "factory.secret"} {
		files = append(files, name, read(name))
	}
	l.edge = configured(t, replaced(edgeLinkConfig, "LINK", l.link.address), files...)
	l.edgeEnv()
	return l
}

// edgeEnv is what the clients of the edge are told.
func (l *linked) edgeEnv() { l.edge.env["MUSTER_CA"] = filepath.Join(l.edge.dir, "ra-ca.pem") }
