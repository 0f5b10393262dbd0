//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/e2e/running"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// server is a process under load, with its children.
type server struct {
	Name      string
	cmd       *exec.Cmd
	processes []int
	postgres  int // PostgreSQL's first process; 0: none
	t         testing.TB
	log       *output
	exited    chan struct{}

	// Of a gateway.
	dir, http, https string
	env              map[string]string
}

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

// database lists PostgreSQL's processes.
func (s *server) database() []int {
	if s.postgres == 0 {
		return nil
	}
	return append(children(s.t, s.postgres), s.postgres)
}

// start runs a program until the test ends, and returns when it answers.
func (s *server) start(cmd *exec.Cmd, answers func() bool) {
	s.t.Helper()
	s.cmd, s.log, s.exited = cmd, &output{}, make(chan struct{})
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := s.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended does not matter
		close(exited)
	}()
	for began := time.Now(); !answers(); time.Sleep(2 * time.Millisecond) {
		select {
		case <-exited:
			s.t.Fatalf("%s ended\n%s", s.Name, s.log)
		default:
		}
		if time.Since(began) > 3*time.Minute {
			s.t.Fatalf("%s does not answer\n%s", s.Name, s.log)
		}
	}
	s.processes = append([]int{cmd.Process.Pid}, children(s.t, cmd.Process.Pid)...)
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // it may have ended
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.cmd.Process.Kill() //nolint:errcheck // as above
		<-s.exited
	}
	s.cmd = nil
}

// ok ends the test with an error.
func (s *server) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", s.Name, err)
	}
}

func (s *server) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.ok(os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (s *server) sh(script string) {
	s.t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", s.Name, err, out)
	}
}

// gateway is one as `muster serve` starts it first, but with an RSA CA of 2048 bits, as its peers have. dsn is its store, "" for its own file.
func gateway(t testing.TB, name, dsn string) *server {
	t.Helper()
	g := &server{Name: name, t: t, dir: filepath.Join(t.TempDir(), "data"), http: running.Address(t), https: running.Address(t)}
	t.Cleanup(g.stop)
	g.again()
	g.stop()
	text, err := os.ReadFile(filepath.Join(g.dir, "muster.yaml"))
	g.ok(err)
	config := strings.Replace(string(text), "        rsa: {", "        rsa: {bits: 2048, ", 1)
	if dsn != "" {
		config = strings.Replace(config, "store: sqlite:muster.db", "store: "+dsn, 1)
	}
	if config == string(text) || dsn != "" && !strings.Contains(config, dsn) {
		t.Fatal("the quickstart's configuration is not what it was")
	}
	g.write("muster.yaml", config)
	for _, gone := range []string{"ca", "muster.db", "muster.db-wal", "muster.db-shm", "audit.head"} {
		g.ok(os.RemoveAll(filepath.Join(g.dir, gone)))
	}
	g.again()
	return g
}

// again starts the gateway and returns how long it took until it was ready.
func (s *server) again() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.start(exec.Command(binary, "serve", "--data", s.dir, "--http", s.http, "--https", s.https), func() bool {
		res, err := http.Get("http://" + s.http + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	took := time.Since(began)
	file, err := os.Open(filepath.Join(s.dir, "quickstart.env"))
	for ; os.IsNotExist(err) && time.Since(began) < time.Minute; time.Sleep(time.Millisecond) { // written a moment later at the first start
		file, err = os.Open(filepath.Join(s.dir, "quickstart.env"))
	}
	s.ok(err)
	defer file.Close()
	s.env = map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), "="); ok {
			s.env[k] = strings.Trim(v, "'")
		}
	}
	return took
}

func (s *server) secret(file string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "secrets", file))
	s.ok(err)
	return strings.TrimSpace(string(text))
}

func (s *server) target(url, roots string, keep bool) simulate.Target {
	s.t.Helper()
	out := simulate.Target{URL: url, Timeout: time.Minute, Keep: keep}
	if roots != "" {
		pem, err := os.ReadFile(roots)
		s.ok(err)
		out.Roots = x509.NewCertPool()
		out.Roots.AppendCertsFromPEM(pem)
	}
	return out
}

func (s *server) scep(url, challenge string) simulate.Client {
	s.t.Helper()
	c, err := simulate.NewSCEP(context.Background(), s.target(url, "", true), challenge)
	s.ok(err)
	return c
}

func (s *server) est(url, roots, user, password string, keep bool) simulate.Client {
	s.t.Helper()
	c, err := simulate.NewEST(s.target(url, roots, keep), user, password)
	s.ok(err)
	return c
}

func (s *server) gatewayEST(keep bool) simulate.Client {
	return s.est("https://"+s.https+"/.well-known/est", s.env["MUSTER_CA"], s.env["MUSTER_EST_USER"], s.secret("est-password"), keep)
}

func (s *server) gatewayCMP() simulate.Client {
	c, err := simulate.NewCMP(s.target("http://"+s.http+"/.well-known/cmp", "", true), s.env["MUSTER_CMP_REF"], s.secret("cmp-secret"))
	s.ok(err)
	return c
}

func (s *server) gatewaySCEP() simulate.Client {
	return s.scep("http://"+s.http+"/scep", s.env["MUSTER_SCEP_CHALLENGE"])
}

// answersGet reports whether a server answers at all.
func answersGet(url string) func() bool {
	return func() bool {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	}
}

// answersTCP is the same for one whose TLS certificate nobody trusts.
func answersTCP(address string) func() bool {
	return func() bool { return dials(address) }
}

// scepServer is micromdm's, which keeps certificates as files.
func scepServer(t testing.TB) *server {
	t.Helper()
	s := &server{Name: "scepserver", t: t, dir: t.TempDir()}
	t.Cleanup(s.stop)
	program, address, depot := filepath.Join(tools, "bin", "scepserver"), running.Address(t), filepath.Join(s.dir, "depot")
	s.sh(program + " ca -init -depot " + depot + " -keySize 2048")
	s.start(exec.Command(program, "-depot", depot, "-challenge", "secret", "-allowrenew", "0", "-http-addr", address), answersGet("http://"+address+"/scep?operation=GetCACaps"))
	s.http = address
	return s
}

// stepCA is Smallstep's, with its badger database.
func stepCA(t testing.TB) *server {
	t.Helper()
	s := &server{Name: "step-ca", t: t, dir: t.TempDir(), http: running.Address(t), https: running.Address(t)}
	t.Cleanup(s.stop)
	s.write("ca.json", fmt.Sprintf(`{"root":"root.pem","crt":"int.pem","key":"int.key","address":%q,"insecureAddress":%q,"dnsNames":["127.0.0.1"],
		"db":{"type":"badgerv2","dataSource":"db"},"authority":{"provisioners":[{"type":"SCEP","name":"scep","challenge":"secret",
		"minimumPublicKeyLength":2048,"encryptionAlgorithmIdentifier":1}]}}`, s.https, s.http))
	s.sh(`openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -subj /CN=Root -days 3650 -addext keyUsage=critical,keyCertSign,cRLSign
		openssl req -newkey rsa:2048 -nodes -keyout int.key -out int.csr -subj /CN=Issuing
		printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature,keyEncipherment\n' >ext
		openssl x509 -req -in int.csr -CA root.pem -CAkey root.key -CAcreateserial -days 3000 -extfile ext -out int.pem`)
	cmd := exec.Command(filepath.Join(tools, "bin", "step-ca"), "ca.json")
	cmd.Dir = s.dir
	s.start(cmd, answersGet("http://"+s.http+"/scep/scep?operation=GetCACaps"))
	return s
}

// estServer is GlobalSign's, with its mock CA, which records nothing and asks nobody.
func estServer(t testing.TB) *server {
	t.Helper()
	s := &server{Name: "estserver", t: t, dir: t.TempDir(), https: running.Address(t)}
	t.Cleanup(s.stop)
	s.sh(`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=Root -days 3650 -addext keyUsage=critical,keyCertSign
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=127.0.0.1
		printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >ext
		openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 300 -extfile ext -out tls.pem`)
	s.write("config.json", fmt.Sprintf(`{"mock_ca":{"certificates":%q,"private_key":%q},"tls":{"listen_address":%q,"certificates":%q,"private_key":%q,"client_cas":[%q]},
		"allowed_hosts":["127.0.0.1",%q],"healthcheck_password":"secret","rate_limit":0,"timeout":30,"log_file":"/dev/null"}`,
		filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "ca.key"), s.https, filepath.Join(s.dir, "tls.pem"), filepath.Join(s.dir, "tls.key"), filepath.Join(s.dir, "ca.pem"), s.https))
	s.start(exec.Command(filepath.Join(tools, "bin", "estserver"), "-config", filepath.Join(s.dir, "config.json")), answersTCP(s.https))
	return s
}

// world is everything that is measured, running.
type world struct{ loads []*load }

func stand(t *testing.T, s scale) *world {
	t.Helper()
	ops := newOperations(t)
	est := &load{Name: "EST, P-256, kept connections", crypto: ops.est}
	handshake := &load{Name: "EST, P-256, a handshake each", crypto: ops.estHandshake}
	cmp := &load{Name: "CMP, P-256, ir and certConf", crypto: ops.cmp}
	scep := &load{Name: "SCEP, RSA-2048", crypto: ops.scep, rsa: true}
	cluster := pgtest.Start(t)
	for _, stored := range s.stored {
		database := cluster.NewDatabase(t)
		for _, kind := range []struct{ name, dsn string }{{"SQLite", ""}, {"PostgreSQL", cluster.DSN(database)}} {
			g := gateway(t, fmt.Sprintf("muster, %s, %s", kind.name, thousands(stored)), kind.dsn)
			(&served{server: g, client: g.gatewaySCEP()}).round(t, 1, true) // the rows that are multiplied
			g.stop()
			seed(t, g, kind.dsn, stored)
			g.again()
			if kind.dsn != "" {
				g.postgres = postmaster(t, kind.dsn)
			}
			est.Servers = append(est.Servers, &served{server: g, client: g.gatewayEST(true)})
			handshake.Servers = append(handshake.Servers, &served{server: g, client: g.gatewayEST(false)})
			cmp.Servers = append(cmp.Servers, &served{server: g, client: g.gatewayCMP()})
			scep.Servers = append(scep.Servers, &served{server: g, client: g.gatewaySCEP()})
		}
	}
	e, p, c := estServer(t), scepServer(t), stepCA(t)
	url, roots := "https://"+e.https+"/.well-known/est", filepath.Join(e.dir, "ca.pem")
	est.Servers = append(est.Servers, &served{server: e, client: e.est(url, roots, "", "", true)})
	handshake.Servers = append(handshake.Servers, &served{server: e, client: e.est(url, roots, "", "", false)})
	scep.Servers = append(scep.Servers, &served{server: p, client: p.scep("http://"+p.http+"/scep", "secret")},
		&served{server: c, client: c.scep("http://"+c.http+"/scep/scep", "secret")})
	return &world{[]*load{cmp, est, handshake, scep}}
}

// postmaster is the process above those that serve a database.
func postmaster(t testing.TB, dsn string) int {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var pid int
	if err := db.QueryRow(`SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return int(status(t, pid, "PPid"))
}
