package e2e

import (
	"bytes"
	"crypto/rsa"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// limitedBy is what each protocol's limits count by here: what differs by protocol is what clients are told, and that a renewal is one;
// the stage's own tests have every kind.
var limitedBy = map[string]string{"est": "device", "cmp": "endpoint", "scep": "source"}

// limitsConfig has an endpoint for each protocol and number.
func limitsConfig() string {
	var b strings.Builder
	b.WriteString(`version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, issuers: {rsa: {bits: 2048}}}}
server-certificate: {backend: local}
profiles:
  device: {backend: local, validity: 30d, jitter: 5d}
  rsa: {backend: local, issuer: rsa, validity: 30d, jitter: 10%}
endpoints:
`)
	for i, p := range []string{"est", "cmp", "scep"} {
		head := map[string]string{
			"est":  "    listeners: [https]\n    profile: device\n",
			"cmp":  "    listeners: [http]\n    profile: device\n    ra: {cert: ra.pem, key: ra.pem}\n",
			"scep": "    listeners: [http]\n    profile: rsa\n    ra: {cert: scep-ra.pem, key: scep-ra.pem}\n",
		}[p]
		who := map[string]string{
			"est":  `password: {users: {op: "{sha256}` + sha256Hex("a password of an operator") + `"}}`,
			"cmp":  "shared-secret: {secrets: {fixed: {file: fixed.secret}}}",
			"scep": `challenge: {secrets: {factory: "{sha256}` + sha256Hex("a challenge of the factory") + `"}}`,
		}[p]
		kind, names := limitedBy[p], "names: {}"
		if kind == "device" {
			names = "inventory: {by: [subject.CN], enrollments: unlimited}\n      - names: {device: subject.CN}"
		}
		for _, limit := range []string{fmt.Sprintf("issued: 1, per: %dh", i+1), "active: 1"} {
			what, _, _ := strings.Cut(limit, ":")
			fmt.Fprintf(&b, "  %s-%s:\n    protocol: %s\n%s    enroll:\n      - %s\n      - %s\n      - limits: {%s: {%s}}\n", p, what, p, head, who, names, kind, limit)
			if what == "active" {
				fmt.Fprintf(&b, "    default: true\n    renew:\n      - own-certificate: {}\n      - limits: {%s: {%s}}\n", kind, limit)
			} else {
				b.WriteString("    renew:\n      - own-certificate: {window: 34%}\n")
			}
		}
	}
	b.WriteString("  cmp-rejected:\n    protocol: cmp\n    listeners: [http]\n    profile: device\n    ra: {cert: ra.pem, key: ra.pem}\n    enroll:\n" +
		"      - shared-secret: {secrets: {fixed: {file: fixed.secret}}}\n      - names: {}\n      - limits: {endpoint: {issued: 1, per: 9h}}\n")
	return b.String()
}

// limited is a gateway with limits, and what its clients keep.
type limited struct {
	*instance
	dir  string
	scep *leaf // what a device has that asks by SCEP
}

// ask enrols by a protocol's own client, into device.key and device.pem, or renews those, and returns what it says where it got nothing.
func (g *limited) ask(protocol, endpoint, name string, renew bool) string {
	g.t.Helper()
	script := ""
	switch {
	case protocol == "est" && !renew:
		script = `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -D head -u "op:a password of an operator" -o body "$MUSTER_HTTPS/.well-known/est/$2/simpleenroll"`
	case protocol == "est":
		script = `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -D head --cert device.pem --key device.key -o body "$MUSTER_HTTPS/.well-known/est/$2/simplereenroll"`
	case protocol == "cmp" && !renew:
		script = `openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp/p/$2 -trusted "$MUSTER_CA" -trusted ra.pem -srvcert ra.pem -cmd ir -ref fixed -secret "pass:secret of fixed, which is long" -newkey device.key -subject "$1" -certout new.pem`
	case protocol == "cmp":
		script = `openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp/p/$2 -srvcert ra.pem -cmd kur -cert device.pem -key device.key -newkey device.key -certout new.pem`
	}
	switch {
	case protocol == "est":
		script = `set -- /CN=` + name + ` ` + endpoint + `
			[ -n "` + fmt.Sprint(map[bool]string{true: "renew"}[renew]) + `" ] || { ` + makeKey + `; }
			` + makeCSR + `; ` + script + `
			if head -1 head | grep -q 200; then openssl base64 -d -A <body | openssl pkcs7 -inform DER -print_certs -out device.pem; else cat head body; fi`
	case protocol == "cmp":
		script = `set -- /CN=` + name + ` ` + endpoint + `
			[ -n "` + fmt.Sprint(map[bool]string{true: "renew"}[renew]) + `" ] || { ` + makeKey + `; }
			if ` + script + ` >log 2>&1; then mv new.pem device.pem; else cat log; fi`
	default:
		return g.askSCEP(endpoint, name, renew)
	}
	return g.sh(g.dir, script)
}

// askSCEP asks with our own client: those of others say nothing of what they are told but a number.
func (g *limited) askSCEP(endpoint, name string, renew bool) string {
	wish := scepWish{name: name, challenge: "a challenge of the factory"}
	if renew {
		wish = scepWish{name: name, kind: "17", signer: g.scep.cert, signerKey: g.scep.key, key: g.scep.key.(*rsa.PrivateKey)}
	}
	d := g.scepDevice()
	d.path = "/scep/" + endpoint
	m := d.message(wish)
	res, err := d.http.Post(d.g.env["MUSTER_HTTP"]+d.path+"?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(m.der))
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := d.take(m, res)
	if err != nil {
		g.t.Fatal(err)
	}
	if a.cert == nil {
		return fmt.Sprintf("%s, Retry-After: %s.", a, res.Header.Get("Retry-After"))
	}
	if !renew {
		g.scep = &leaf{key: d.key}
	}
	g.scep.cert = a.cert
	return ""
}

func (g *limited) must(protocol, endpoint, name string, renew bool) (serial string) {
	g.t.Helper()
	if out := g.ask(protocol, endpoint, name, renew); out != "" {
		g.t.Fatalf("%s at %s: %s", name, endpoint, out)
	}
	if protocol == "scep" {
		return fmt.Sprintf("%x", g.scep.cert.SerialNumber)
	}
	return strings.TrimPrefix(strings.TrimSpace(g.sh(g.dir, "openssl x509 -noout -serial -in device.pem")), "serial=")
}

// refused wants a request to be refused in the client's own words, and explain to say which limit, and how much of it is used.
func (g *limited) refused(protocol, endpoint, name string, renew bool, told, why string) {
	g.t.Helper()
	out := g.ask(protocol, endpoint, name, renew)
	for _, want := range strings.Split(told, "|") {
		if !strings.Contains(out, want) {
			g.t.Errorf("%s is told, without %q:\n%s", endpoint, want, out)
		}
	}
	of := g.transactions(name)
	if len(of) == 0 {
		g.t.Fatalf("no transaction of %s", name)
	}
	if account := g.muster("explain", of[0].ID); !strings.Contains(account, why) {
		g.t.Errorf("explain says, without %q:\n%s", why, account)
	}
}

// In each protocol: what its client is told, that a renewal counts once, and that revocation frees.
func TestLimits(t *testing.T) {
	ra, scepRA := string(raPEM(t)), rsaRA(t)
	g := &limited{configured(t, limitsConfig(), "ra.pem", ra, "scep-ra.pem", scepRA, "fixed.secret", "secret of fixed, which is long"), t.TempDir(), nil}
	g.muster("device", "add", "est-device-0")
	g.sh(g.dir, `cp "`+filepath.Join(g.instance.dir, "ra.pem")+`" ra.pem`)
	// What the client of each protocol says: by HTTP's status, by CMP's failInfo, by an HTTP status too (RFC 8894 has no failInfo for it).
	busy := map[string]string{"est": " 503|Retry-After: |too many certificates were issued", "cmp": "systemUnavail|too many certificates were issued|try again in", "scep": "HTTP 503|too many certificates were issued|try again in"}
	no := map[string]string{"est": " 403|too many certificates are valid", "cmp": "notAuthorized|too many certificates are valid", "scep": "FAILURE 2: too many certificates are valid"}
	early := map[string]string{"est": " 403|not before 20", "cmp": "notAuthorized|not before 20", "scep": "FAILURE 2: too early to renew the certificate: not before 20"}
	for i, p := range []string{"est", "cmp", "scep"} {
		kind := limitedBy[p]
		name := func(n int) string {
			if kind == "device" {
				n = 0
			}
			return fmt.Sprintf("%s-device-%d", p, n)
		}
		who := func(what string) string {
			return map[string]string{"device": `device "` + name(0) + `"`, "endpoint": `endpoint "` + p + "-" + what + `"`, "source": "source 127.0.0.1/32"}[kind]
		}
		t.Run(p+" issued", func(t *testing.T) {
			g.t = t
			g.instance.t = t
			e := p + "-issued"
			g.must(p, e, name(1), false)
			g.refused(p, e, name(1), true, early[p], "in the last 34% of its time, not before 20")
			g.refused(p, e, name(2), false, busy[p], fmt.Sprintf("the limit of %s: 1 issued per %dh, is reached: 1 of 1, until 20", who("issued"), i+1))
		})
		t.Run(p+" active", func(t *testing.T) {
			g.t = t
			g.instance.t = t
			e := p + "-active"
			serial := g.must(p, e, name(11), false)
			for range 2 { // a chain of renewals
				serial = g.must(p, e, name(11), true)
			}
			g.refused(p, e, name(12), false, no[p], fmt.Sprintf("the limit of %s: 1 active, is reached: 1 of 1, until 20", who("active")))
			g.muster("revoke", serial)
			g.must(p, e, name(13), false)
		})
	}
	t.Run("cmp rejected", func(t *testing.T) { // made is made
		g.t = t
		g.instance.t = t
		g.sh(g.dir, `set -- /CN=cmp-rejects; `+makeKey+`
			openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -subj /CN=other 2>&1
			if openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp/p/cmp-rejected -srvcert ra.pem -cmd ir -ref fixed -secret "pass:secret of fixed, which is long" \
				-newkey device.key -subject "$1" -certout new.pem -out_trusted other.pem >log 2>&1; then cat log; exit 1; fi`)
		if of := g.transactions("cmp-rejects"); len(of) != 1 || of[0].State != "rejected" {
			t.Fatalf("%+v", of)
		}
		g.refused("cmp", "cmp-rejected", "cmp-again", false, busy["cmp"], "1 issued per 9h, is reached: 1 of 1")
	})
	g.t = t
	g.instance.t = t
	// What a device has used is shown, and given back.
	if screen := g.muster("device", "show", "est-device-0"); !strings.Contains(screen, "1 issued per 1h\n") || !strings.Contains(screen, "\nLimits ") {
		t.Error(screen)
	}
	g.muster("device", "reset", "est-device-0")
	if screen := g.muster("device", "show", "est-device-0"); strings.Contains(screen, "\nLimits ") {
		t.Error(screen)
	}
	g.must("est", "est-issued", "est-device-0", false)
	// An operator sees how far a certificate's end was moved.
	if account := g.muster("explain", g.transactions("est-device-0")[0].ID); !strings.Contains(account, "limits") {
		t.Error(account)
	}
	moved := 0
	for _, x := range listing[struct{ ID, State string }](g.instance) {
		if moved < 3 && x.State == "issued" && strings.Contains(g.muster("explain", x.ID), "before its validity does, by jitter") {
			moved++
		}
	}
	if moved < 3 {
		t.Errorf("only %d certificates end earlier than their profile says", moved)
	}
}
