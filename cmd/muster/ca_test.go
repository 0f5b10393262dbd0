package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

func someCAs() admin.CAList {
	root := admin.CACertificate{Subject: "CN=Root", Kind: "root", Key: "P-256", KeyID: "1111111111111111", NotAfter: received.AddDate(100, 0, 0), Fingerprint: "r"}
	issuing := admin.CACertificate{Subject: "CN=Issuing", Kind: "issuing", Key: "P-256", KeyID: "2222222222222222", NotAfter: received.AddDate(90, 0, 0), Fingerprint: "i"}
	former := issuing
	former.Fingerprint, former.KeyID, former.NotAfter = "f", "3333333333333333", received.AddDate(-1, 0, 0)
	return admin.CAList{CAs: []admin.CA{
		{Backend: "local", Name: "ec", Default: true, Chain: []admin.CACertificate{issuing, root}, Rollover: []admin.CACertificate{former}, CRLs: []string{"ec", "ec-1"}, CanRoll: true},
		{Backend: "local", Name: "rsa", Chain: []admin.CACertificate{issuing, root}},
		{Backend: "corp", Error: "\x1bno route"},
	}}
}

func TestCALs(t *testing.T) {
	dir, _ := fakeAPI(t, map[string]any{"GET /v1/cas": someCAs()})
	out, err := runCommand(newCACommand(), "ls", "--data", dir)
	if err != nil {
		t.Fatal(err)
	}
	says(t, out, "local/ec *  issuing        CN=Issuing ", "22222222…  2116-03-01        ec, ec-1\n", "            other issuing  CN=Issuing ", "2025-03-01, over", `corp                       does not answer: \x1bno route`, "* the backend's default\n")
	var list []admin.CA
	if out, err := runCommand(newCACommand(), "ls", "--data", dir, "--json"); err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 3 {
		t.Error(err, out)
	}
}

func TestCARoll(t *testing.T) {
	after := someCAs().CAs[0]
	after.Rollover = append(after.Rollover, after.Chain[0])
	after.Chain[0].Fingerprint, after.CRLs = "new", []string{"ec", "ec-2"}
	dir, asked := fakeAPI(t, map[string]any{"GET /v1/cas": someCAs(), "POST /v1/cas/local/rollover": after})
	someID := regexp.MustCompile(`"id":"[0-9a-hjkmnp-tv-z]{26}",`)
	last := func() string { calls := asked(); return someID.ReplaceAllString(calls[len(calls)-1], `"id":ID,`) }
	run := func(args ...string) (string, error) {
		return runCommand(newCACommand(), append(args, "--data", dir)...)
	}
	out, err := run("rekey", "local/ec", "--yes")
	if err != nil || last() != `POST /v1/cas/local/rollover {"id":ID,"issuer":"ec","kind":"rekey"}` {
		t.Error(err, last())
	}
	says(t, out, "local/ec is changed over:\n  new  issuing  CN=Issuing, P-256, until 2116-03-01 12:00:00 UTC\n       SHA-256 new\n", "Devices that trust the root need nothing", "Both keys' CRLs have to be published", "ec, ec-2")
	if strings.Count(out, "  new  ") != 1 {
		t.Error(out)
	}
	out, err = run("renew", "local", "--root", "--yes")
	if err != nil || last() != `POST /v1/cas/local/rollover {"id":ID,"issuer":"ec","kind":"renew","root":true}` || strings.Contains(out, "Both keys'") {
		t.Error(err, last(), out)
	}
	says(t, out, "Give the renewed root to whoever trusts the present one")
	if out, err = run("rekey", "local", "--root", "--yes"); err != nil {
		t.Error(err)
	}
	says(t, out, "OldWithNew and NewWithOld", "GetCACert")
	if strings.Contains(out, "GetNextCACert") {
		t.Errorf("it promises what is not implemented:\n%s", out)
	}
	if out, err := run("renew", "local/ec", "--yes", "--json"); err != nil || !strings.Contains(out, `"backend": "local"`) {
		t.Error(err, out)
	}
	// Without --yes, and without a terminal, it says what would change, and changes nothing.
	_, err = run("rekey", "local/ec", "--root")
	if err == nil || !strings.HasPrefix(last(), "GET") {
		t.Fatal(err, last())
	}
	says(t, err.Error(), "The root of local/ec gets a new key, and a certificate for it, and the issuing CA below it too:\n  issuing  CN=Issuing", "\n  root  CN=Root", "Go on? --yes says so; nothing was changed")
	for want, arg := range map[string]string{
		"local/rsa cannot be changed over from here":               "local/rsa",
		`there is no CA "local/ecc" (did you mean "local/ec"?)`:    "local/ecc",
		`backend corp does not answer: \x1bno route`:               "corp",
		`there is no CA "nowhere" (known: local/ec, local/rsa, co`: "nowhere",
	} {
		if _, err := run("renew", arg, "--yes"); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(last(), "GET") {
			t.Error(arg, err)
		}
	}
}

// When no answer comes, the command says how to ask again; the same ID makes nothing twice, and is said to have not.
func TestCARollAgain(t *testing.T) {
	broken := func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	}
	answer := func(status int) any {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			w.Write([]byte(`{"error":"the CA says no"}`)) //nolint:errcheck // the client tells
		}
	}
	for _, x := range []struct {
		answer any
		again  bool
	}{{broken, true}, {answer(503), true}, {answer(409), false}} {
		dir, asked := fakeAPI(t, map[string]any{"GET /v1/cas": someCAs(), "POST /v1/cas/local/rollover": x.answer})
		_, err := runCommand(newCACommand(), "rekey", "local/ec", "--yes", "--data", dir)
		if err == nil {
			t.Fatal("no error")
		}
		id := regexp.MustCompile(`--id ([0-9a-z]{26}) makes sure`).FindStringSubmatch(err.Error())
		if (id != nil) != x.again {
			t.Errorf("%v", err)
		}
		if calls := asked(); id != nil && !strings.Contains(calls[len(calls)-1], id[1]) {
			t.Errorf("%v after %s", err, calls[len(calls)-1])
		}
	}
	id := "01jh5jqgc8f4xw6q0tqkz9e7ab"
	dir, asked := fakeAPI(t, map[string]any{"GET /v1/cas": someCAs(), "POST /v1/cas/local/rollover": someCAs().CAs[0]})
	out, err := runCommand(newCACommand(), "rekey", "local/ec", "--yes", "--id", id, "--data", dir)
	if calls := asked(); err != nil || calls[len(calls)-1] != `POST /v1/cas/local/rollover {"id":"`+id+`","issuer":"ec","kind":"rekey"}` || !strings.HasPrefix(out, "local/ec was changed over by this order before") || strings.Contains(out, "Next") {
		t.Error(err, out, calls)
	}
	if _, err := runCommand(newCACommand(), "rekey", "local/ec", "--yes", "--id", "x", "--data", dir); err == nil || !strings.Contains(err.Error(), "26 letters") {
		t.Error(err)
	}
}

func TestCACRL(t *testing.T) {
	ca, _ := selfSigned(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.KeyUsage, ca.SubjectKeyId, ca.PublicKey = x509.KeyUsageCRLSign, []byte{1}, key.Public()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(300), ThisUpdate: received, NextUpdate: received.AddDate(0, 0, 7),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: received}}}, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(body []byte) any {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.Write(body) } //nolint:errcheck // the client tells
	}
	dir, asked := fakeAPI(t, map[string]any{"GET /v1/cas/local/crl": raw(der), "GET /v1/cas/bad/crl": raw([]byte("x"))})
	out, err := runCommand(newCACommand(), "crl", "local/ec", "--data", dir)
	if err != nil || out != string(der) || !strings.HasPrefix(asked()[0], "GET /v1/cas/local/crl?name=ec") {
		t.Error(err, asked())
	}
	file := filepath.Join(dir, "ec.crl")
	out, err = runCommand(newCACommand(), "crl", "local/ec", "-o", file, "--data", dir)
	if got, _ := os.ReadFile(file); err != nil || out != file+": 1 revoked certificate, of CN=CA, next update 2026-03-08 12:00:00 UTC\n" || !bytes.Equal(got, der) {
		t.Error(err, out)
	}
	var told fetchedCRL
	out, err = runCommand(newCACommand(), "crl", "local", "--json", "--data", dir)
	if err != nil || json.Unmarshal([]byte(out), &told) != nil || told.Revoked != 1 || told.Number != "012c" || !bytes.Equal(told.DER, der) {
		t.Error(err, out)
	}
	if _, err := runCommand(newCACommand(), "crl", "bad", "--data", dir, "-o", file+"2"); err == nil || !strings.Contains(err.Error(), "no CRL") {
		t.Error(err)
	}
	if _, err := os.Stat(file + "2"); err == nil {
		t.Error("what is no CRL is written")
	}
}
