package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// stopsWithin is how long a stop may take while every CA answers at once: connections without a whole request have 5 s.
const stopsWithin = 8 * time.Second

// errNotSent is of a request that was not sent whole on a connection that was made: nobody could have accepted it.
var errNotSent = errors.New("not sent")

// errCut is of one that was sent whole, and got no whole answer.
var errCut = errors.New("cut")

// exactClient sends requests by itself, so as to tell those that were cut from those that could not be sent. A connection that it keeps it
// looks at before it uses it, as HTTP clients do: one that the server has closed in the meantime is not used.
type exactClient struct {
	addrs []string // the next one when it cannot connect to one
	at    int
	tls   *tls.Config // nil for none
	keep  bool

	conn net.Conn
	read *bufio.Reader
}

func (c *exactClient) do(path, contentType, authorization string, body []byte) (*http.Response, []byte, error) {
	if c.conn != nil {
		c.conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond)) //nolint:errcheck // Peek tells
		if _, err := c.read.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			c.close()
		}
	}
	if c.conn == nil {
		if err := c.dial(); err != nil {
			c.at++
			return nil, nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n", path, c.addrs[0], contentType, len(body))
	if authorization != "" {
		fmt.Fprintf(&text, "Authorization: %s\r\n", authorization)
	}
	text.WriteString("\r\n")
	text.Write(body)
	c.conn.SetDeadline(time.Now().Add(40 * time.Second)) //nolint:errcheck // Write and Read tell
	if _, err := c.conn.Write(text.Bytes()); err != nil {
		c.close()
		return nil, nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	res, err := http.ReadResponse(c.read, &http.Request{Method: http.MethodPost})
	var got []byte
	if err == nil {
		got, err = io.ReadAll(res.Body)
	}
	if err != nil {
		c.close()
		return nil, nil, fmt.Errorf("%w: %w", errCut, err)
	}
	if res.Close || !c.keep {
		c.close()
	}
	res.Body = io.NopCloser(bytes.NewReader(got))
	return res, got, nil
}

func (c *exactClient) dial() error {
	conn, err := net.DialTimeout("tcp", c.addrs[c.at%len(c.addrs)], 10*time.Second)
	if err != nil {
		return err
	}
	if c.tls != nil {
		over := tls.Client(conn, c.tls)
		over.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // Handshake tells
		if err := over.Handshake(); err != nil {
			conn.Close()
			return err
		}
		conn = over
	}
	c.conn, c.read = conn, bufio.NewReader(conn)
	return nil
}

func (c *exactClient) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// exactEnroll makes a function that enrols the device of a name over the protocol with the number kind, of three, here or at another replica.
func (g *instance) exactEnroll(kind int, keep bool, others ...*instance) func(name string, retry func() bool) error {
	g.t.Helper()
	plain, secure := &exactClient{keep: keep}, &exactClient{keep: keep}
	for _, at := range append([]*instance{g}, others...) {
		plain.addrs = append(plain.addrs, strings.TrimPrefix(at.env["MUSTER_HTTP"], "http://"))
		secure.addrs = append(secure.addrs, strings.TrimPrefix(at.env["MUSTER_HTTPS"], "https://"))
	}
	secure.tls = g.client(nil).Transport.(*http.Transport).TLSClientConfig.Clone()
	secure.tls.ServerName = "127.0.0.1"
	begun := &instance{t: g.t, dir: g.dir, env: g.env}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(g.env["MUSTER_EST_USER"]+":"+g.env["MUSTER_EST_PASSWORD"]))
	var phone *scepDevice
	if kind == 2 {
		phone = begun.scepDevice()
	}
	// sent sends one request until it could be sent, and nothing twice.
	sent := func(c *exactClient, path, contentType, authorization string, body []byte, retry func() bool) (*http.Response, []byte, error) {
		for {
			res, got, err := c.do(path, contentType, authorization, body)
			if !errors.Is(err, errNotSent) || !retry() {
				return res, got, err
			}
		}
	}
	return func(name string, retry func() bool) error {
		switch kind {
		case 0:
			res, got, err := sent(secure, "/.well-known/est/simpleenroll", "application/pkcs10", basic, []byte(toBase64(newDevice(g.t, name).csr)), retry)
			if err == nil && res.StatusCode != http.StatusOK {
				err = fmt.Errorf("EST: %d %s", res.StatusCode, got)
			}
			return err
		case 1:
			d := begun.cmpDevice(name)
			for _, body := range []func() cmpmsg.Body{func() cmpmsg.Body { return d.request(cmpmsg.TypeIR) }, func() cmpmsg.Body { return d.certConf() }} {
				_, got, err := sent(plain, "/.well-known/cmp", "application/pkixcmp", "", d.message(body()), retry)
				if err != nil {
					return err
				}
				if m, err := d.take(got); err != nil || d.cert == nil || failure(m) != "" {
					return fmt.Errorf("CMP: %v %s", err, got)
				}
			}
			return nil
		}
		m := phone.message(scepWish{name: name, challenge: g.env["MUSTER_SCEP_CHALLENGE"]})
		res, _, err := sent(plain, phone.path+"?operation=PKIOperation", "application/x-pki-message", "", m.der, retry)
		if err != nil {
			return err
		}
		if a, err := phone.take(m, res); err != nil || a.cert == nil {
			return fmt.Errorf("SCEP: %v %w", a, err)
		}
		return nil
	}
}

// TestReliabilityStop stops the gateway by SIGTERM again and again, while clients of all protocols enrol over connections that they keep
// and over new ones: whoever has sent a whole request gets the whole answer. It ends by itself, in time, with code 0; its log has nothing
// to warn of; its CA's process and its sockets are gone.
func TestReliabilityStop(t *testing.T) {
	if !long {
		t.Parallel()
	}
	stops := scaled(2, 50)
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	g.http, g.https = strings.TrimPrefix(g.env["MUSTER_HTTP"], "http://"), strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://")

	var answered, cut, unsent atomic.Int64
	over := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 9 {
		enroll := g.exactEnroll(i%3, i < 6)
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				err := enroll(fmt.Sprintf("stop-%d-%d", i, n), func() bool {
					unsent.Add(1)
					time.Sleep(5 * time.Millisecond)
					select {
					case <-over:
						return false
					default:
						return true
					}
				})
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, errCut):
					cut.Add(1)
					t.Errorf("client %d: %v", i, err)
				case !errors.Is(err, errNotSent):
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	var slowest time.Duration
	for range stops {
		// The load is on once every client has been answered twice or so.
		for until := answered.Load() + 18; answered.Load() < until && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		plugin := g.plugin()
		begun := time.Now()
		g.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // ProcessState tells
		<-g.exited
		slowest = max(slowest, time.Since(begun))
		g.stoppedWell(plugin)
		g.launch()
		if err := g.ready(); err != nil {
			t.Fatalf("%v\n%s", err, g.stderr)
		}
	}
	for until := answered.Load() + 9; answered.Load() < until && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
	close(over)
	clients.Wait()
	if slowest > stopsWithin {
		t.Errorf("a stop took %v", slowest)
	}
	twice := 0
	for name, n := range g.inStore("stop-") {
		if n != 1 {
			twice++
			t.Errorf("%s has %d certificates", name, n)
		}
	}
	t.Logf("%d stops: %d enrollments, %d times a client had to connect again", stops, answered.Load(), unsent.Load())
	found(finding{test: "SIGTERM under load: enrollments", n: int(answered.Load()), lost: int(cut.Load()), twice: twice,
		worst: fmt.Sprintf("stopped after %.2f s", slowest.Seconds())})
}

// stoppedWell looks at what a gateway that has ended leaves behind.
func (g *instance) stoppedWell(plugin int) {
	g.t.Helper()
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		g.t.Errorf("exit code %d\n%s", code, g.stderr)
	}
	_, log, _ := strings.Cut(g.stderr.String(), "msg=\"stopping")
	if !strings.Contains(log, "msg=stopped") || strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		g.t.Errorf("the log:\n%s", log)
	}
	if err := syscall.Kill(plugin, 0); err == nil {
		g.t.Errorf("the CA's process %d lives on", plugin)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "admin.sock")); err == nil {
		g.t.Error("the admin API's socket is left")
	}
	filepath.Walk(filepath.Join(g.dir, "run"), func(path string, info os.FileInfo, err error) error { //nolint:errcheck // nothing fails
		if err == nil && info.Mode()&os.ModeSocket != 0 {
			g.t.Errorf("%s is left", path)
		}
		return nil
	})
}

// TestReliabilityRollingRestart restarts two replicas over one PostgreSQL in turn, under load. A client that cannot connect to one goes on at
// the other: each device gets its certificate, and one.
func TestReliabilityRollingRestart(t *testing.T) {
	if !long {
		t.Parallel()
	}
	rounds, each := scaled(1, 10), scaled(100, 1000)
	replicas, journals, rsaDir := countingReplicas(t, 1_000_000)
	challenged(t, replicas, 2*each)
	var inventory []admin.Device
	for i := range 6 * each {
		inventory = append(inventory, admin.Device{Name: fmt.Sprintf("roll-%d-%d", i/each, i%each)})
	}
	if _, err := replicas[0].admin().ImportDevices(t.Context(), inventory, false, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	var answered, lost atomic.Int64
	over, worst := make(chan struct{}), &slowest{}
	var clients sync.WaitGroup
	for i := range 6 {
		enroll := replicas[i%2].exactEnroll(i/2, i%2 == 0, replicas[1-i%2])
		clients.Go(func() {
			for n := range each {
				select {
				case <-over:
					return
				default:
				}
				begun, tries := time.Now(), 0
				if err := enroll(fmt.Sprintf("roll-%d-%d", i, n), func() bool { tries++; return tries < 4 }); err != nil {
					lost.Add(1)
					t.Errorf("client %d: %v", i, err)
					continue
				}
				worst.since(begun)
				answered.Add(1)
			}
		})
	}
	for range rounds {
		for _, g := range replicas {
			for until := answered.Load() + 18; answered.Load() < until && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
			plugin, again := g.plugin(), exec.Command(binary, append(g.cmd.Args[1:len(g.cmd.Args):len(g.cmd.Args)],
				"--http", strings.TrimPrefix(g.env["MUSTER_HTTP"], "http://"), "--https", strings.TrimPrefix(g.env["MUSTER_HTTPS"], "https://"))...)
			g.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // ProcessState tells
			<-g.exited
			g.stoppedWell(plugin)
			g.start(again)
			g.listening("http")
		}
	}
	close(over)
	clients.Wait()
	issued, stored, twice := inJournals(t, journals, "roll-"), replicas[0].inStore("roll-"), 0
	maps.Copy(issued, inFolder(t, rsaDir, "roll-"))
	for name, n := range issued {
		if n != 1 || stored[name] != 1 {
			twice += n - 1
			t.Errorf("%s: issued %d times, %d in the store", name, n, stored[name])
		}
	}
	if len(issued) != int(answered.Load()) && !t.Failed() {
		t.Errorf("%d devices have a certificate, %d were answered", len(issued), answered.Load())
	}
	found(finding{test: "rolling restart of 2 replicas under load: enrollments", n: int(answered.Load()), lost: int(lost.Load()), twice: twice, worst: worst.String()})
}
