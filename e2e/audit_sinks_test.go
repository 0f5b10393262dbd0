package e2e

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// syslogServer takes messages of RFC 5424 over TCP, framed as RFC 6587 section 3.4.1 has it, and is strict about both.
type syslogServer struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	l     net.Listener
	conns []net.Conn
	seqs  []int
}

var syslogMessage = regexp.MustCompile(`^<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]+ muster \d+ audit ` +
	`\[muster@\d+ stream="[^"]+" seq="(\d+)" hash="[0-9a-f]{64}"\] \{"stream":.*\}$`)

func (s *syslogServer) open() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.l, s.addr = l, l.Addr().String()
	s.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go s.read(conn)
		}
	}()
}

func (s *syslogServer) read(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		n, err := r.ReadString(' ')
		if err != nil {
			return
		}
		size, err := strconv.Atoi(strings.TrimSuffix(n, " "))
		if err != nil || size <= 0 || n[0] == '0' {
			s.t.Errorf("a frame of length %q", n)
			return
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		m := syslogMessage.FindSubmatch(b)
		if m == nil {
			s.t.Errorf("no message of ours: %s", b)
			return
		}
		seq, _ := strconv.Atoi(string(m[1]))
		s.mu.Lock()
		s.seqs = append(s.seqs, seq)
		s.mu.Unlock()
	}
}

// away ends it, with its connections.
func (s *syslogServer) away() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.l.Close()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// last is the last record that it has, each before which it has to have too, from the first on.
func (s *syslogServer) last() int {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	last := 0
	for _, seq := range s.seqs {
		switch {
		case last == 0 || seq == last+1:
			last = seq
		case seq > last+1:
			s.t.Errorf("record %d after %d", seq, last)
			last = seq
		}
	}
	return last
}

// TestAuditSinks: a file and a syslog get every event; while one is away nobody gets a certificate, and who asks again gets his when it
// is back.
func TestAuditSinks(t *testing.T) {
	t.Parallel()
	server := &syslogServer{t: t, addr: "127.0.0.1:0"}
	server.open()
	defer server.away()
	g := configured(t, reloadConfigOf(`audit:
  sinks:
    - file: {path: audit.jsonl}
    - syslog: {address: "tcp://`+server.addr+`"}
    - file: {path: full.jsonl}
`), "factory.secret", reloadSecret, "challenges", "{sha256}"+sha256Hex(reloadChallenge)+"\n")
	est := func() string {
		out, _ := g.run(g.dir, "sh", "-c", `curl -sS -o est.out -w '%{http_code}' --cacert "$MUSTER_CA" -u 'factory:`+reloadPassword+`' -H 'Content-Type: application/pkcs10' --data-binary @est.b64 "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
		return strings.TrimSpace(out)
	}
	cmp := func() int {
		_, code := g.run(g.dir, "sh", "-c", `openssl cmp -config "" -cmd ir -implicit_confirm -server "$MUSTER_HTTP/.well-known/cmp" -ref factory -secret 'pass:`+reloadSecret+`' -newkey cmp.key -subject /CN=cmp -certout cmp.pem -total_timeout 20`)
		return code
	}
	ready := func() int {
		res, err := http.Get(g.env["MUSTER_HTTP"] + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	g.sh(g.dir, `openssl ecparam -name prime256v1 -genkey -noout -out cmp.key
		openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout est.key -subj /CN=first -outform DER | base64 > est.b64`)
	if code := est(); code != "200" {
		t.Fatalf("with both sinks: %s\n%s", code, g.stderr)
	}
	if code := cmp(); code != 0 {
		t.Fatalf("with both sinks, CMP: %d\n%s", code, g.stderr)
	}
	scep := g.scepDevice()
	scepEnrols := func(name string) (status string, err error) {
		a, err := scep.send(scep.message(scepWish{name: name, challenge: reloadChallenge}))
		if err != nil {
			return "", err
		}
		return a.status, nil
	}
	if status, err := scepEnrols("first"); err != nil || status != "0" {
		t.Fatalf("with both sinks, SCEP: %s, %v\n%s", status, err, g.stderr)
	}
	before := server.last()
	if before == 0 || ready() != http.StatusOK {
		t.Fatalf("the syslog has %d, readiness %d\n%s", before, ready(), g.stderr)
	}

	server.away()
	g.sh(g.dir, `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout est.key -subj /CN=second -outform DER | base64 > est.b64
		openssl ecparam -name prime256v1 -genkey -noout -out cmp.key`)
	if code := est(); code == "200" {
		t.Error("a certificate that the syslog does not know of")
	}
	g.becomes("it is ready, with a sink away", func() bool { return ready() == http.StatusServiceUnavailable })
	if cmp() == 0 {
		t.Error("a certificate over CMP that the syslog does not know of")
	}
	if status, err := scepEnrols("second"); err == nil && status == "0" {
		t.Error("a certificate over SCEP that the syslog does not know of")
	}
	if out, code := g.run(g.dir, binary, "status", "--data", g.dir); code != 1 || !strings.Contains(out, "audit sink syslog tcp://"+server.addr+": DOWN since 20") || !strings.Contains(out, "audit.jsonl: well") {
		t.Errorf("muster status: %d\n%s", code, out)
	}
	if up := g.gauge(`muster_audit_sink_up{sink="syslog tcp://` + server.addr + `"}`); up != 0 {
		t.Errorf("the metric says %v", up)
	}
	if res, err := http.Get(g.env["MUSTER_HTTP"] + "/healthz"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("health: %+v, %v", res, err)
	} else {
		res.Body.Close()
	}
	server.open()
	g.becomes("it is not ready, with the sink back", func() bool { return ready() == http.StatusOK })
	if code := est(); code != "200" {
		t.Errorf("again, with the sink back: %s\n%s", code, g.stderr)
	}
	if code := cmp(); code != 0 {
		t.Errorf("again, with the sink back, CMP: %d\n%s", code, g.stderr)
	}
	if status, err := scepEnrols("second"); err != nil || status != "0" {
		t.Errorf("again, with the sink back, SCEP: %s, %v\n%s", status, err, g.stderr)
	}
	if out, code := g.run(g.dir, binary, "status", "--data", g.dir); code != 0 || strings.Contains(out, "DOWN") {
		t.Errorf("muster status, with the sink back: %d\n%s", code, out)
	}
	g.verified("--config", filepath.Join(g.dir, "gateway.yaml")) // with none of it lost, nor two of a number
	if after := server.last(); after < before+2 {
		t.Errorf("the syslog has %d records, had %d", after, before)
	}
	full := filepath.Join(g.dir, "full.jsonl")
	logged := g.stderr.String()

	// The disk of a file is full, as logrotate moves it away; then there is room.
	if err := errors.Join(os.Rename(full, full+".1"), os.Symlink("/dev/full", full)); err != nil {
		t.Fatal(err)
	}
	g.becomes("it is ready, with a file's disk full", func() bool {
		_, _ = scepEnrols("third")
		return ready() == http.StatusServiceUnavailable
	})
	if status, err := scepEnrols("third"); err == nil && status == "0" {
		t.Error("a certificate that the file on a full disk does not know of")
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	g.becomes("it is not ready, with room on the disk", func() bool { return ready() == http.StatusOK })
	if status, err := scepEnrols("third"); err != nil || status != "0" {
		t.Errorf("again, with room on the disk: %s, %v\n%s", status, err, g.stderr)
	}
	g.verified("--partial", "--key", filepath.Join(g.dir, "audit.pub"), full+".1", full)
	log := logged
	if strings.Count(log, "the audit trail does not reach a sink: nothing") != 1 || strings.Count(log, "the sink has the audit trail again") != 1 {
		t.Errorf("the log says when it goes and when it is back, once each:\n%s", log)
	}
	g.verified("--partial", "--key", filepath.Join(g.dir, "audit.pub"), filepath.Join(g.dir, "audit.jsonl"))
}

// reloadConfigOf is reloadConfig without the listener files, with more at its end.
func reloadConfigOf(more string) string {
	c := strings.Replace(reloadConfig, "  device: {", "  device-rsa: {backend: local, issuer: rsa, validity: 90d}\n  device: {", 1)
	c = strings.Replace(c, "  files: {address: 127.0.0.1:0, tls: {cert: tls.pem, key: tls.pem}}\n", "", 1)
	return strings.Replace(c, "[https, files]", "[https]", 1) + more
}
