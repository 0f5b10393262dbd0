package e2e

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/passhash"
)

// The bounds of docs/hostile.md.
const (
	mostCPU    = 20 * time.Millisecond // of gateway and CA together, for a stranger's request
	mostMemory = 64 << 10              // KiB beyond the baseline
)

// TestReliabilityHostile sends every kind of hostile request to every endpoint: each that is complete is answered, none with a 5xx or a
// certificate, the log has no error, and honest clients are served afterwards. The full run repeats each, and bounds CPU and memory.
func TestReliabilityHostile(t *testing.T) {
	if !long {
		t.Parallel()
	}
	dir := filepath.Join(t.TempDir(), "data")
	hash, err := passhash.Password([]byte("a person's password"))
	if err != nil {
		t.Fatal(err)
	}
	// Whoever guesses people's passwords is soon told 503; here each guess is computed.
	edited(t, dir, "            factory: ", fmt.Sprintf("            person: %q\n            factory: ", hash))
	edited(t, dir, "      - password:\n", "      - password:\n          limit: {burst: 1000000}\n")
	g := startIn(t, dir)
	before := len(listing[map[string]any](g, "certificates"))
	times, f := scaled(1, 200), finding{test: "hostile requests"}
	memory := rss(t, g, "VmRSS")
	worst, dearest := g.assault(t, hostiles(t, g), times, &f)
	cost := g.hostileHandshakes(t, times)
	if f.n += times; cost > worst {
		worst, dearest = cost, "a TLS client certificate of RSA-8192 with 16 CAs"
	}
	if long && cost > mostCPU {
		t.Errorf("the handshake costs %v of CPU", cost)
	}
	grown := rss(t, g, "VmHWM") - memory
	if long && grown > mostMemory {
		t.Errorf("the gateway has taken %d KiB more", grown)
	}
	g.unharmed(t, before)
	f.worst = fmt.Sprintf("%.1f ms CPU (%s), %d MiB", float64(worst)/1e6, dearest, grown>>10)
	found(f)
}

// assault sends each request so many times, and returns what the dearest has cost.
func (g *instance) assault(t *testing.T, all []hostile, times int, f *finding) (worst time.Duration, dearest string) {
	t.Helper()
	send := map[bool]*stranger{false: {g: g}, true: {g: g, tls: true}}
	memory := rss(t, g, "VmRSS")
	for _, h := range all {
		s, message := send[h.tls], h.wire()
		start := g.cpuAll(t)
		for range times {
			f.n++
			status, err := s.sendAll(h.method, message, max(1, h.answers))
			if err != nil {
				t.Errorf("%s: no answer: %v", h.name, err)
				f.lost++
				break
			}
			if status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported {
				t.Errorf("%s: answered %d", h.name, status)
			}
		}
		cost := (g.cpuAll(t) - start) / time.Duration(times*max(1, h.answers))
		if cost > worst {
			worst, dearest = cost, h.name
		}
		if long && cost > mostCPU {
			t.Errorf("%s costs %v of CPU", h.name, cost)
		}
		t.Logf("%-60s %v, %d KiB", h.name, cost, rss(t, g, "VmHWM")-memory)
	}
	return worst, dearest
}

// TestReliabilityIdle opens more connections than a listener has, from many addresses, and sends nothing, half a handshake, half a header
// or half a body: new clients are served at once, and afterwards everything is as it was.
func TestReliabilityIdle(t *testing.T) {
	if !long {
		t.Parallel()
	}
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	memory, files := rss(t, g, "VmRSS"), g.descriptors(t)
	total := scaled(200, 5000)
	for _, over := range []struct {
		env   string
		sends []string
	}{
		{"MUSTER_HTTP", []string{"", "GET / HT", "POST /.well-known/cmp HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkixcmp\r\nContent-Length: 100\r\n\r\nx"}},
		{"MUSTER_HTTPS", []string{"", "\x16\x03\x01\x02\x00\x01"}},
	} {
		addr := strings.TrimPrefix(strings.TrimPrefix(g.env[over.env], "http://"), "https://")
		var open []net.Conn
		for i := range total {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%20))}, Timeout: 10 * time.Second}
			c, err := d.Dial("tcp", addr)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			io.WriteString(c, over.sends[i%len(over.sends)]) //nolint:errcheck // it may be closed already
			open = append(open, c)
			if i%500 == 499 {
				g.honest(t, fmt.Sprintf("%s-%d", strings.ToLower(over.env[7:]), i))
			}
		}
		g.honest(t, strings.ToLower(over.env[7:])+"-idle")
		if grown := rss(t, g, "VmHWM") - memory; long && grown > mostMemory {
			t.Errorf("%s: %d KiB more with %d idle connections", over.env, grown, total)
		}
		for _, c := range open {
			c.Close()
		}
	}
	for range 1000 {
		if g.descriptors(t) <= files+10 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now := g.descriptors(t); now > files+10 {
		t.Errorf("%d descriptors, %d before", now, files)
	}
	grown := rss(t, g, "VmHWM") - memory
	g.unharmed(t, -1)
	found(finding{test: "idle connections", n: 2 * total, worst: fmt.Sprintf("%d MiB", grown>>10)})
}

// stranger sends requests over a connection of its own each, or over one that is left open.
type stranger struct {
	g    *instance
	tls  bool
	conn net.Conn
	read *bufio.Reader
}

// sendAll returns the status of the last of so many answers.
func (s *stranger) sendAll(method string, message []byte, answers int) (status int, err error) {
	for try := range 2 {
		fresh := s.conn == nil
		if fresh {
			if err := s.dial(); err != nil {
				return 0, err
			}
		}
		s.conn.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // Read tells
		_, wrote := s.conn.Write(message)                    // an early answer may come with a reset behind it
		for err == nil && answers > 0 {
			var res *http.Response
			if res, err = http.ReadResponse(s.read, &http.Request{Method: method}); err != nil || res.StatusCode == http.StatusContinue {
				continue
			}
			_, cut := io.Copy(io.Discard, res.Body)
			if status, answers = res.StatusCode, answers-1; cut != nil || res.Close {
				s.close()
				break
			}
		}
		if err == nil {
			return status, nil
		}
		s.close()
		if fresh || try == 1 {
			return 0, errors.Join(wrote, err)
		}
	}
	panic("not reached")
}

func (s *stranger) dial() (err error) {
	if s.tls {
		s.conn, err = tls.Dial("tcp", strings.TrimPrefix(s.g.env["MUSTER_HTTPS"], "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nothing secret is sent
	} else {
		s.conn, err = net.Dial("tcp", strings.TrimPrefix(s.g.env["MUSTER_HTTP"], "http://"))
	}
	if err != nil {
		s.conn = nil
		return err
	}
	s.read = bufio.NewReader(s.conn)
	return nil
}

func (s *stranger) close() {
	s.conn.Close()
	s.conn = nil
}

// hostileHandshakes shows a chain of 8192-bit keys in handshakes, with a signature that is noise, and says what one costs.
func (g *instance) hostileHandshakes(t *testing.T, times int) time.Duration {
	t.Helper()
	chain := chainBomb(t, 16, 0)
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: chain, PrivateKey: noisySigner{leaf.PublicKey.(*rsa.PublicKey)}}
	conf := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }} //nolint:gosec // as above
	start := g.cpuAll(t)
	for range times {
		c, err := tls.Dial("tcp", strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://"), conf)
		if err != nil {
			continue // on TLS 1.2 the alert comes here
		}
		c.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // Read tells
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Error("a handshake with a signature that is noise goes on")
		}
		c.Close()
	}
	return (g.cpuAll(t) - start) / time.Duration(times)
}

// cpuAll is the CPU that gateway and CA plugin have used.
func (g *instance) cpuAll(t testing.TB) time.Duration {
	ns := cpu(t, g.cmd.Process.Pid)
	if p := g.plugin(); p != 0 {
		ns += cpu(t, p)
	}
	return time.Duration(ns)
}

// rss is a figure of /proc/PID/status in KiB: VmRSS now, VmHWM at its highest.
func rss(t testing.TB, g *instance, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == key+":" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", key)
	return 0
}

func (g *instance) descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// honest enrols a device by a connection of its own, as it must at once.
func (g *instance) honest(t *testing.T, name string) {
	t.Helper()
	client := g.client(nil)
	defer client.CloseIdleConnections()
	client.Timeout = 5 * time.Second // half of what a silent client's connection lasts
	if a, err := g.enroll(t.Context(), client, newDevice(t, name)); err != nil || a.status != http.StatusOK {
		t.Errorf("an honest client (%s): %+v %v", name, a, err)
	}
}

// unharmed looks at the log, and at what was certified: before is how many certificates there were, -1 for any number.
func (g *instance) unharmed(t *testing.T, before int) {
	t.Helper()
	g.sound(t, before)
	g.honest(t, "after-all")
}

// sound is unharmed without a device.
func (g *instance) sound(t *testing.T, before int) {
	t.Helper()
	if after := len(listing[map[string]any](g, "certificates")); before >= 0 && after != before {
		t.Errorf("%d certificates came of it", after-before)
	}
	for line := range strings.Lines(g.stderr.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			t.Error(line)
		}
	}
}
