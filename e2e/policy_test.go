package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

// policyRules are rules of all kinds. Those of an endpoint of its own name decide by what it is asked for.
const policyRules = `rules:
  - {name: forbidden, if: 'request.subject.commonName.startsWith("bad-")', deny: "this name is not for you"}
  - {name: lab, if: 'request.subject.commonName.startsWith("lab-")', profile: PROFILE}
  - {name: broken, if: 'request.subject.commonName.startsWith("err-") && attributes["site"] == "x"', allow: true}
  - {name: watched, if: 'request.subject.commonName.startsWith("held-")', hold: "somebody has to look"}
  - {name: right-door, if: 'request.protocol == request.endpoint', allow: true}
`

const policyGateway = onLocalCA + `profiles:
  device: {backend: local, validity: 30d}
  device-lab: {backend: local, validity: 3d}
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
  mobile-lab: {backend: local, issuer: rsa, validity: 3d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    profiles: [device-lab]
    enroll:
      - password: {file: users}
      - names: {}
      - policy: {file: policy.yaml}
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    profiles: [device-lab]
    enroll:
      - shared-secret: {secrets: {fixed: {file: fixed.secret}}}
      - names: {}
      - policy: {file: policy.yaml}
    cmp: {retry-after: 1s}
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    profiles: [mobile-lab]
    enroll:
      - challenge: {file: challenges}
      - names: {}
      - policy: {file: policy-mobile.yaml}
`

// policyClients ask for a certificate, each over its protocol, and print what they are told. The certificate is in $1.pem.
var policyClients = map[string]string{
	"est": makeKey + `; openssl req -new -key device.key -subj "/CN=$1" -outform DER | openssl base64 -A > device.b64
		curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u held:held-password \
			-o answer -w '%{http_code}\n' "$MUSTER_HTTPS/.well-known/est/simpleenroll"
		openssl base64 -d -A -in answer 2>/dev/null | openssl pkcs7 -inform DER -print_certs -out "$1.pem" 2>/dev/null || cat answer`,
	"cmp": makeKey + `; openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -ref fixed -secret "pass:a secret that both of them know" \
			-subject "/CN=$1" -newkey device.key -certout "$1.pem" -trusted "$MUSTER_CA" 2>&1`,
	"scep": `pki --scepca --url "$MUSTER_HTTP/scep" --caout ca.pem --raout ra.pem --outform pem --force >log 2>&1
		pki --gen --type rsa --size 2048 --outform pem > device.key 2>/dev/null
		pki --scep --url "$MUSTER_HTTP/scep" --in device.key --dn "CN=$1" --password held-challenge --interval 1 --maxpolltime 60 \
			--cacert-enc ra.pem --cacert-sig ra.pem --cacert ca.pem --cacert ca-1.pem --outform pem 2>&1 > "$1.pem"`,
}

// What the rules of a policy say is what happens, in each protocol, and explain and `policy test` say why.
func TestPolicy(t *testing.T) {
	t.Parallel()
	g := configured(t, policyGateway, "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"), "fixed.secret", "a secret that both of them know",
		"policy.yaml", strings.Replace(policyRules, "PROFILE", "device-lab", 1), "policy-mobile.yaml", strings.Replace(policyRules, "PROFILE", "mobile-lab", 1))
	for protocol, client := range policyClients {
		t.Run(protocol, func(t *testing.T) {
			g := *g
			g.t = t
			dir, file, told := t.TempDir(), "policy.yaml", "this name is not for you"
			profile := map[string]string{"ok": "device", "lab": "device-lab", "held": "device"}
			if protocol == "scep" { // strongSwan does not show what stands beside a failInfo
				file, told = "policy-mobile.yaml", ""
				profile = map[string]string{"ok": "mobile", "lab": "mobile-lab", "held": "mobile"}
			}
			ask := func(name string) string {
				out, _ := g.run(dir, "sh", "-uc", client, "sh", name)
				return out
			}
			// explained is the newest request for the name, what explain says of it, and what `policy test` says of it by its
			// ID, of the rules by themselves and of the configuration.
			explained := func(name string, code int) (text, tried string) {
				t.Helper()
				var rows []admin.Transaction
				for _, tx := range listing[admin.Transaction](&g, "--refused") { // what could not be answered is remembered, and not stored
					if strings.Contains(tx.Subject, name) {
						rows = append(rows, tx)
					}
				}
				if len(rows) == 0 {
					t.Fatalf("no request for %s", name)
				}
				id := rows[0].ID
				text = g.muster("explain", id)
				tried, got := g.run(g.dir, binary, "policy", "test", file, "--request", id, "--data", g.dir)
				if got != code {
					t.Errorf("exit code %d, want %d:\n%s", got, code, tried)
				}
				request := filepath.Join(dir, name+".json")
				if err := os.WriteFile(request, []byte(g.muster("explain", id, "--json")), 0o600); err != nil {
					t.Fatal(err)
				}
				if out, got := g.run(g.dir, binary, "policy", "test", "gateway.yaml", "--request", request); got != code || !strings.HasPrefix(out, "endpoints."+protocol+".enroll[2].policy\n") {
					t.Errorf("exit code %d, want %d:\n%s", got, code, out)
				}
				return text, tried
			}
			wants := func(what, text string, words ...string) {
				t.Helper()
				for _, w := range words {
					if !strings.Contains(text, w) {
						t.Errorf("%s lacks %q:\n%s", what, w, text)
					}
				}
			}
			for _, kind := range []string{"ok", "lab"} {
				name := kind + "-" + protocol
				out := ask(name)
				if rows := g.transactions(name); len(rows) != 1 || rows[0].State != "issued" || rows[0].Profile != profile[kind] || len(g.ledger(name)) != 1 {
					t.Fatalf("%s: %+v\n%s", name, rows, out)
				}
				text, tried := explained(name, 0)
				wants("explain", text, "rule right-door ("+file+":6)")
				wants("policy test", tried, file+"\nRULE ", "allow: by rule right-door", `request.subject.commonName = "`+name+`"`)
				if kind == "lab" {
					wants("explain", text, "rule lab ("+file+":3): profile "+profile[kind])
				}
			}
			// One that is denied is told why; the operator is told by which rule.
			out := ask("bad-" + protocol)
			wants("what the client is told", out, told, map[string]string{"est": "403", "cmp": "notAuthorized", "scep": "badRequest"}[protocol])
			text, tried := explained("bad-"+protocol, 2)
			wants("explain", text, "rule forbidden ("+file+`:2): deny "this name is not for you", since request.subject.commonName = "bad-`+protocol+`"`)
			wants("policy test", tried, `deny: by rule forbidden; the client is told "this name is not for you"`)
			// What cannot be evaluated issues nothing, and the client is not told what rules there are.
			out = ask("err-" + protocol)
			if strings.Contains(out, "broken") || strings.Contains(out, "site") {
				t.Errorf("the client is told of the rules:\n%s", out)
			}
			text, tried = explained("err-"+protocol, 4)
			wants("explain", text, "rule broken ("+file+":4:", "no such key: site")
			wants("policy test", tried, "cannot-answer: rule broken ("+file+":4:")
			if len(g.ledger("bad-"+protocol))+len(g.ledger("err-"+protocol)) != 0 {
				t.Error("a certificate for who was refused")
			}
			// Held, and approved.
			name := "held-" + protocol
			done := make(chan string, 1)
			go func() { done <- ask(name) }()
			id := g.held(name)
			text, _ = explained(name, 3)
			wants("explain", text, "rule watched ("+file+`:5): hold "somebody has to look"`, "1 person to approve within 7d")
			if protocol == "est" { // it does not poll
				wants("what the client is told", <-done, "202")
				g.muster("approve", id)
			} else {
				g.muster("approve", id)
				out = <-done
			}
			if rows := g.transactions(name); len(rows) != 1 || rows[0].State != "issued" || rows[0].Profile != profile["held"] {
				t.Errorf("%+v\n%s", rows, out)
			}
			if protocol != "est" {
				g.sh(dir, "openssl x509 -noout -in "+name+".pem")
			}
		})
	}
}
