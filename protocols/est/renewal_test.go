package est

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
)

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TestCertificateID: draft-ietf-lamps-est-renewal-info section 3.1; as in the example of RFC 9773 section 4.1, which the draft takes over.
func TestCertificateID(t *testing.T) {
	authority, serial, err := parseCertificateID("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
	if err != nil || len(authority) != 20 || authority[0] != 0x69 || serial.Text(16) != "87654321" {
		t.Errorf("%x, %x, %v", authority, serial, err)
	}
	for _, id := range []string{"", ".", "AAAA", "AAAA.", ".AAAA", "AAAA.AAAA=", "AAAA.AA+A", "AAAA.AAAA.AAAA", "AAAA.AAB", "AAAA.AAAA/", "AAAA.AA\nAA",
		strings.Repeat("A", 252) + ".AAAA"} {
		if _, _, err := parseCertificateID(id); err == nil {
			t.Errorf("%q is read", id)
		}
	}
}

func FuzzCertificateID(f *testing.F) {
	f.Add("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
	f.Add("AAAA.AAAA;")
	f.Fuzz(func(t *testing.T, id string) {
		if authority, serial, err := parseCertificateID(id); err == nil && (len(authority) == 0 || serial.Sign() < 0 || serial.BitLen() > 8*maxCertificateID) {
			t.Errorf("%q: %x %x", id, authority, serial)
		}
	})
}

// TestRenewalWindow: within its bounds, the same each time, and spread over a fleet of one hour.
func TestRenewalWindow(t *testing.T) {
	hint := RenewalHint{}.WithDefaults()
	const day = 24 * time.Hour
	born := testTime
	c := &x509.Certificate{NotBefore: born, NotAfter: born.Add(100 * day)}
	days := map[int]int{} // of beginnings
	for i := range 2000 {
		c.Raw = big.NewInt(int64(i)).Bytes()
		start, end, ok := hint.window(c)
		if !ok || start.Before(born.Add(66*day)) || end.After(born.Add(83*day)) || end.Sub(start) < 4*day || end.Sub(start) > 5*day {
			t.Fatalf("%v to %v", start, end)
		}
		if again, _, _ := hint.window(c); !again.Equal(start) {
			t.Fatal("another window")
		}
		days[int(start.Sub(born)/day)]++
	}
	for d := 66; d < 78; d++ {
		if days[d] < 100 || days[d] > 220 { // 157 if they were even
			t.Errorf("day %d: %d begin", d, days[d])
		}
	}
	// A life of a century does not overflow; one of a minute still has a window, one of ten seconds none.
	c.NotAfter = born.AddDate(100, 0, 0)
	if start, end, ok := hint.window(c); !ok || start.Before(born.AddDate(65, 0, 0)) || end.After(born.AddDate(84, 0, 0)) {
		t.Errorf("%v to %v", start, end)
	}
	c.NotAfter = born.Add(time.Minute)
	if start, end, ok := hint.window(c); !ok || !end.After(start) {
		t.Errorf("%v to %v", start, end)
	}
	c.NotAfter = born.Add(time.Second)
	if _, _, ok := hint.window(c); ok {
		t.Error("a window without an end after its start")
	}
}

// TestRenewalInfo: draft-ietf-lamps-est-renewal-info section 3.2 (and 3.2.1: no base64).
func TestRenewalInfo(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	cert := w.ca.issue(t, &x509.Certificate{}, key.Public())
	gone := *cert
	gone.NotAfter = testTime.Add(-time.Second)
	short := *cert
	short.NotBefore, short.NotAfter = testTime.Add(-time.Second), testTime.Add(time.Second)
	answers := map[string]func() (*x509.Certificate, error){
		"01": func() (*x509.Certificate, error) { return cert, nil },
		"02": func() (*x509.Certificate, error) { return nil, nil },
		"03": func() (*x509.Certificate, error) { return &gone, nil },
		"04": func() (*x509.Certificate, error) { return &short, nil },
		"05": func() (*x509.Certificate, error) {
			return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "the store cannot be read", Err: errors.New("disk")}
		},
	}
	w.gateway.renews = func(authority []byte, serial *big.Int) (*x509.Certificate, error) {
		if string(authority) != "authority" {
			t.Errorf("asked for %x", authority)
		}
		return answers["0"+serial.String()]()
	}
	id := func(n byte) string {
		return "/renewal-info/" + b64url([]byte("authority")) + "." + b64url([]byte{0, n})
	}
	for _, c := range []struct {
		path   string
		status int
	}{
		{id(1), 200}, {id(2), 404}, {id(3), 404}, {id(4), 404}, {id(5), 503}, {"/renewal-info/x", 400}, {"/renewal-info/", 400}, {"/renewal-info", 400},
		{id(1) + "/x", 400}, {id(1) + "=", 400},
	} {
		res := send(t, w.client(nil, nil, nil), w.request(http.MethodGet, "/.well-known/est"+c.path, nil))
		body := []byte(res.body)
		if res.StatusCode != c.status {
			t.Errorf("%s: %s %s", c.path, res.Status, body)
			continue
		}
		if c.status != http.StatusOK {
			continue
		}
		head := send(t, w.client(nil, nil, nil), w.request(http.MethodHead, "/.well-known/est"+c.path, nil))
		if head.StatusCode != http.StatusOK || head.body != "" || head.Header.Get("Retry-After") != "1875" || head.ContentLength != int64(len(body)) {
			t.Errorf("HEAD: %s %v %q", head.Status, head.Header, head.body)
		}
		var told map[string]map[string]string
		if err := json.Unmarshal(body, &told); err != nil || len(told) != 1 || len(told["suggestedWindow"]) != 2 {
			t.Fatalf("%s", body)
		}
		hint := RenewalHint{}.WithDefaults()
		start, end, _ := hint.window(cert)
		if got := told["suggestedWindow"]; got["start"] != start.Format(time.RFC3339) || got["end"] != end.Format(time.RFC3339) {
			t.Errorf("%s", body)
		}
		// 25 hours of life: every half an hour and a bit.
		if res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Retry-After") != "1875" {
			t.Errorf("%v", res.Header)
		}
	}
}

func TestAskAgain(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		time.Minute: time.Minute, 48 * time.Hour: time.Hour, 30 * 24 * time.Hour: 6 * time.Hour, 100 * 365 * 24 * time.Hour: 6 * time.Hour,
	} {
		if got := askAgain(&x509.Certificate{NotBefore: testTime, NotAfter: testTime.Add(life)}); got != want {
			t.Errorf("%v: %v, want %v", life, got, want)
		}
	}
}

func TestRenewalHintConfig(t *testing.T) {
	decode := func(text string) (Config, error) {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			t.Fatal(err)
		}
		var c Config
		err := c.UnmarshalStrict("gateway.yaml", n.Content[0])
		return c, err
	}
	c, err := decode("renewal-hint: {from: 50%, until: 60%}")
	if err != nil || c.RenewalHint != (RenewalHint{From: 50, Until: 60}) {
		t.Errorf("%+v, %v", c.RenewalHint, err)
	}
	for text, says := range map[string]string{
		"renewal-hint: {from: 90%}":             "from is not before until",
		"renewal-hint: {from: 60%, until: 60%}": "from is not before until",
		"renewal-hint: {from: 66}":              "wants 1% to 99%",
		"renewal-hint: {until: 100%}":           "wants 1% to 99%",
		"renewal-hint: {from: 0%}":              "wants 1% to 99%",
		"renewal-hint: {till: 80%}":             "until",
	} {
		if _, err := decode(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
