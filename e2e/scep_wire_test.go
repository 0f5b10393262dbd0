package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Ways in which clients put a message into a request, through the real listener: net/http has a say as well.
func TestSCEPWire(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := g.scepDevice()
	std := base64.StdEncoding.EncodeToString
	wrapped := func(s string) string {
		var b strings.Builder
		for ; len(s) > 64; s = s[64:] {
			b.WriteString(s[:64] + "\n")
		}
		return b.String() + s + "\n"
	}
	for name, query := range map[string]func([]byte) string{
		"escaped":                  func(m []byte) string { return url.QueryEscape(std(m)) },
		"+ and / as they are":      std,
		"+ became a space":         func(m []byte) string { return strings.NewReplacer("+", "%20", "/", "%2F").Replace(std(m)) },
		"lines of 64":              func(m []byte) string { return url.QueryEscape(wrapped(std(m))) },
		"lines of 64, rest not":    func(m []byte) string { return strings.ReplaceAll(wrapped(std(m)), "\n", "%0A") },
		"URL-safe":                 base64.URLEncoding.EncodeToString,
		"URL-safe, no padding":     base64.RawURLEncoding.EncodeToString,
		"no padding":               base64.RawStdEncoding.EncodeToString,
		"another parameter behind": func(m []byte) string { return std(m) + "&x=1" },
	} {
		m := d.message(scepWish{name: "wire", challenge: g.env["MUSTER_SCEP_CHALLENGE"]})
		req, err := http.NewRequest(http.MethodGet, g.env["MUSTER_HTTP"]+"/scep/pkiclient.exe", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = "operation=PKIOperation&message=" + query(m.der)
		res, err := d.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := d.take(m, res); err != nil || a.cert == nil {
			t.Errorf("GET, %s: %v, %v", name, a, err)
		}
	}
	for name, change := range map[string]func(*http.Request, []byte){
		"no type":                  func(r *http.Request, _ []byte) { r.Header.Del("Content-Type") },
		"no operation":             func(r *http.Request, _ []byte) { r.URL.RawQuery = "" },
		"the message in the query": func(r *http.Request, m []byte) { r.URL.RawQuery += "&message=" + url.QueryEscape(string(m)) }, // mdmb
		"in pieces":                func(r *http.Request, _ []byte) { r.ContentLength = -1 },
		"100-continue":             func(r *http.Request, _ []byte) { r.Header.Set("Expect", "100-continue") },
	} {
		m := d.message(scepWish{name: "wire", challenge: g.env["MUSTER_SCEP_CHALLENGE"]})
		req, err := http.NewRequest(http.MethodPost, g.env["MUSTER_HTTP"]+"/scep?operation=PKIOperation", bytes.NewReader(m.der))
		if err != nil {
			t.Fatal(err)
		}
		change(req, m.der)
		res, err := d.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := d.take(m, res); err != nil || a.cert == nil {
			t.Errorf("POST, %s: %v, %v", name, a, err)
		}
	}
	if n := len(g.ledger("wire")); n != 14 {
		t.Errorf("%d in the ledger, want 14", n)
	}

	for _, c := range []struct {
		method, target string
		body           int
		status         int
	}{
		{"GET", "/scep?operation=GetCACaps", 0, 200},
		{"HEAD", "/scep?operation=GetCACaps", 0, 200},
		{"GET", "/scep/scep/any/thing?operation=GetCACert", 0, 200},
		{"GET", "/scep/scpe?operation=GetCACaps", 0, 404},
		{"GET", "/scep/scep2/pkiclient.exe?operation=GetCACaps", 0, 404},
		{"POST", "/scep/SCEP?operation=PKIOperation", 100, 404},
		{"POST", "/scep?operation=GetCACert", 0, 405},
		{"PUT", "/scep?operation=PKIOperation", 100, 405},
		{"GET", "/scep?operation=GetNextCACert", 0, 501},
		{"GET", "/scep?operation=PKIOperation", 0, 400},
		{"POST", "/scep?operation=PKIOperation", 256 << 10, 400},
		{"POST", "/scep?operation=PKIOperation", 256<<10 + 1, 413},
		{"GET", "/scep?operation=PKIOperation&message=" + strings.Repeat("A", 30<<10), 0, 400},
	} {
		req, err := http.NewRequest(c.method, g.env["MUSTER_HTTP"]+c.target, bytes.NewReader(make([]byte, c.body)))
		if err != nil {
			t.Fatal(err)
		}
		res, err := d.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.status || (c.method == "HEAD") != (len(body) == 0) {
			t.Errorf("%s %.60s: %d %.200s, %v; want %d", c.method, c.target, res.StatusCode, body, err, c.status)
		}
	}
}

// Bodies that do not come: they hold nobody up, and a cut one is nobody's request.
func TestSCEPSlowBodies(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := g.scepDevice()
	address := strings.TrimPrefix(g.env["MUSTER_HTTP"], "http://")
	m := d.message(scepWish{name: "slow", challenge: g.env["MUSTER_SCEP_CHALLENGE"]})
	head := fmt.Sprintf("POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(m.der))
	for range 64 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(append([]byte(head), m.der[:len(m.der)-1]...)); err != nil {
			t.Fatal(err)
		}
	}
	cut, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	if _, err := cut.Write(append([]byte(head), m.der[:100]...)); err != nil {
		t.Fatal(err)
	}
	if err := cut.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := cut.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(cut)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("a body that ends early: %q, %v", answer, err)
	}
	if n := len(g.ledger("slow")); n != 0 {
		t.Errorf("%d in the ledger", n)
	}
	if a := d.must(m); a.cert == nil {
		t.Errorf("beside 64 slow clients: %v", a)
	}
}
