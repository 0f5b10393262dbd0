package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

func selfSigned(t *testing.T) (*x509.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// records is a store and a gateway for the admin API.
type records struct {
	admin.Store // none of what follows
	admin.Gateway
	admin.Sealer
	stored, strangers []*gateway.Transaction
	certs             []*gateway.Certificate
	answer            []byte // to every CMP message
}

func (s *records) Transactions(_ context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error) {
	var out []*gateway.Transaction
	for _, t := range s.stored {
		if (len(f.States) == 0 || slices.Contains(f.States, t.State)) && (f.Before == "" || t.ID < f.Before) && len(out) < f.Limit {
			out = append(out, t)
		}
	}
	return out, nil
}

func (s *records) Certificates(_ context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	return s.certs[:min(len(s.certs), f.Limit)], nil
}

func (s *records) Explain(_ context.Context, id string) (*gateway.Transaction, error) {
	for _, t := range slices.Concat(s.stored, s.strangers) {
		if t.ID == id {
			return t, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func (s *records) Messages(context.Context, string) ([]gateway.Message, error) { return nil, nil }

func (s *records) Strangers(int) []*gateway.Transaction { return s.strangers }
func (s *records) Ready(context.Context) error          { return nil }

// serveAdmin runs the admin API in the data folder that it returns.
func serveAdmin(t *testing.T, s *records) string {
	t.Helper()
	dir := t.TempDir()
	server, err := admin.New(admin.Config{
		Store: s, Gateway: s, Backends: func(context.Context) []admin.Backend { return nil },
		CAs:     func(context.Context) []admin.BackendCAs { return nil },
		CRL:     func(context.Context, string, string) ([]byte, error) { return nil, gateway.ErrNotFound },
		Metrics: prometheus.NewRegistry(), Clock: time.Now, Log: slog.New(slog.DiscardHandler), Started: func() bool { return true },
		Sealer: func() admin.Sealer { return s }, TakesSecrets: func(string) error { return nil }, TakesChallenges: func(string, string) error { return nil },
		ProcessCMP: s.processCMP, Configuration: func() admin.Configuration { return admin.Configuration{} },
		Reload: func(context.Context, string) (*admin.Reload, error) { return nil, errors.New("not here") },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := admin.Listen(filepath.Join(dir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return dir
}

func runCommand(cmd *cobra.Command, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

var received = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func txID(n int) string { return fmt.Sprintf("06gzsq%04dabcdefghjk%06d", n, n*7) }

func storedTransaction(n int, state gateway.State, change func(*gateway.Transaction)) *gateway.Transaction {
	t := &gateway.Transaction{
		ID: txID(n), Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Enroll, State: state, Source: "192.0.2.7",
		Subject: "CN=device-1", Received: received, Updated: received,
	}
	if change != nil {
		change(t)
	}
	return t
}

func someRecords() *records {
	return &records{
		stored: []*gateway.Transaction{
			storedTransaction(3, gateway.StateIssued, func(x *gateway.Transaction) {
				x.Requester, x.Device, x.Backend = "password:factory", "device-0001", "local"
				x.Certificate = &gateway.Certificate{
					Serial: []byte{0xab, 0xcd}, Subject: "CN=device-1", NotBefore: received, NotAfter: received.AddDate(100, 0, 0), DER: []byte("der"),
				}
				x.Verdicts = []gateway.Judged{{Stage: "password", Decision: gateway.Allow, Note: `user "factory"`, Took: 12 * time.Microsecond}}
			}),
			storedTransaction(2, gateway.StateRefused, func(x *gateway.Transaction) {
				x.Operation, x.Reason, x.Requester, x.Subject = gateway.Renew, gateway.NotAuthorized, "tls-certificate:67acd17222f32efa3c2b1f77b9ece94e1ed52d2410a630f04bf4a6b077164238", "CN=victim"
				x.Note = "own-certificate: the request asks for subject CN=victim, the certificate has CN=device-0002"
				x.Verdicts = []gateway.Judged{{Stage: "anyOf", Decision: gateway.Deny, Reason: gateway.NotAuthorized, Note: "no branch allowed", Parts: []gateway.Judged{
					{Stage: "own-certificate", Decision: gateway.Deny, Reason: gateway.NotAuthorized, Note: "the request asks for subject CN=victim, the certificate has CN=device-0002", Took: 92 * time.Microsecond},
				}}}
			}),
		},
		strangers: []*gateway.Transaction{storedTransaction(1, gateway.StateRefused, func(x *gateway.Transaction) {
			x.Reason, x.Subject = gateway.Unauthenticated, "CN=\x1b[2Jevil\u202e"
			x.Note = "password: no user \x1b[31m\"x\"\r\nfaked line"
			x.Verdicts = []gateway.Judged{{Stage: "password", Decision: gateway.Deny, Reason: gateway.Unauthenticated, Note: "no user \x1b[31m\"x\"\r\nfaked line"}}
		})},
		certs: []*gateway.Certificate{
			{Serial: []byte{0xab, 0xcd}, Transaction: txID(3), Subject: "CN=device-1", NotAfter: received.AddDate(100, 0, 0)},
			{Serial: []byte{0x01}, Transaction: txID(2), Subject: "CN=old", NotAfter: received},
			{Serial: []byte{0x02}, Transaction: txID(1), Subject: "CN=gone", NotAfter: received.AddDate(100, 0, 0), RevokedAt: received},
		},
	}
}

// unseen fails when the output holds what a terminal would act upon.
func unseen(t *testing.T, out string) {
	t.Helper()
	if strings.ContainsAny(out, "\x1b\r\u202e") {
		t.Errorf("what a stranger sent reaches the terminal: %q", out)
	}
}

func TestLs(t *testing.T) {
	dir := serveAdmin(t, someRecords())
	for name, c := range map[string]struct {
		args []string
		want []string
		not  []string
	}{
		"transactions":         {nil, []string{"TRANSACTION", txID(3), "03-01 12:00:00", "issued", "ran enroll", "device-0001", txID(2), "CN=victim", "the certificate has CN=device-0002"}, []string{txID(1), "..."}},
		"named":                {[]string{"transactions"}, []string{txID(3)}, nil},
		"strangers":            {[]string{"--refused"}, []string{txID(1), txID(3), `CN=\x1b[2Jevil\u202e`, `\r\nfaked line`}, nil},
		"refused":              {[]string{"--state", "refused"}, []string{txID(1), txID(2)}, []string{txID(3)}},
		"issued, held":         {[]string{"--state", "issued,held"}, []string{txID(3)}, []string{txID(2)}},
		"the newest":           {[]string{"--limit", "1"}, []string{txID(3), "older ones: --limit"}, []string{txID(2)}},
		"none":                 {[]string{"--state", "held"}, []string{"no transactions"}, []string{"TRANSACTION"}},
		"certificates":         {[]string{"certificates"}, []string{"abcd", "valid", "expired", "revoked", "2126-03-01"}, nil},
		"certificates, device": {[]string{"certificates", "--device", "x", "--valid", "--requester", "y"}, []string{"abcd"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := runCommand(newLsCommand(), append([]string{"--data", dir}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
			for _, w := range c.not {
				if strings.Contains(out, w) {
					t.Errorf("has %q:\n%s", w, out)
				}
			}
			unseen(t, out)
		})
	}
}

// A limit beyond one page is collected page by page.
func TestLsPages(t *testing.T) {
	s := &records{}
	for n := 2500; n > 0; n-- {
		s.stored = append(s.stored, storedTransaction(n, gateway.StateIssued, nil))
	}
	dir := serveAdmin(t, s)
	for limit, want := range map[string]int{"10": 10, "1000": 1000, "1001": 1001, "1000000": 2500} {
		out, err := runCommand(newLsCommand(), "--data", dir, "--json", "--limit", limit)
		if err != nil {
			t.Fatal(err)
		}
		var all []admin.Transaction
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatal(err)
		}
		if len(all) != want || all[0].ID != txID(2500) || all[len(all)-1].ID != txID(2500-want+1) {
			t.Errorf("--limit %s gives %d, the last %s", limit, len(all), all[len(all)-1].ID)
		}
	}
	out, err := runCommand(newLsCommand(), "--data", dir, "--json", "--state", "held")
	if err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("nothing is %q, %v", out, err)
	}
}

// Without a terminal nothing is cut; a row that is too long for its column does not widen the others.
func TestLsWithoutATerminal(t *testing.T) {
	long := "CN=" + strings.Repeat("x", 500)
	dir := serveAdmin(t, &records{stored: []*gateway.Transaction{
		storedTransaction(2, gateway.StateRefused, func(x *gateway.Transaction) { x.Subject, x.Note = long, "names: too long" }),
		storedTransaction(1, gateway.StateRefused, func(x *gateway.Transaction) { x.Note = "names: why not" }),
	}})
	out, err := runCommand(newLsCommand(), "--data", dir)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 4 || !strings.HasSuffix(lines[1], long+"  names: too long") {
		t.Fatalf("the long row is cut:\n%s", out)
	}
	if len(lines[0]) > 130 || len(lines[2]) > 150 || !strings.HasSuffix(lines[2], "names: why not") || strings.Index(lines[0], "WHY") != strings.Index(lines[2], "names:") {
		t.Errorf("the others do not stand in their columns:\n%s", out)
	}
}

func TestLsFitsTheTerminal(t *testing.T) {
	dir := serveAdmin(t, someRecords())
	for _, width := range []int{80, 100, 110, 120, 200} {
		f := &lsFlags{clientFlags: clientFlags{data: dir}, limit: 50, refused: true}
		for name, list := range map[string]func(context.Context, *bytes.Buffer) error{
			"transactions": func(ctx context.Context, w *bytes.Buffer) error { return f.listTransactions(ctx, w, width, received) },
			"certificates": func(ctx context.Context, w *bytes.Buffer) error { return f.listCertificates(ctx, w, width, received) },
		} {
			var out bytes.Buffer
			if err := list(context.Background(), &out); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
					t.Errorf("%s at %d columns has a line of %d: %s", name, width, n, line)
				}
			}
			if !strings.Contains(out.String(), txID(3)) || !strings.Contains(out.String(), "CN=") {
				t.Errorf("%s at %d columns:\n%s", name, width, out.String())
			}
		}
	}
}

func TestExplainCommand(t *testing.T) {
	dir := serveAdmin(t, someRecords())
	for name, c := range map[string]struct {
		id    string
		first string
		want  []string
	}{
		"issued": {txID(3), "Device device-0001 was issued a certificate for CN=device-1: valid, until 2126-03-01 12:00:00 UTC",
			[]string{"allow          password  12µs", `user "factory"`, "Serial     abcd", "Requester    password:factory", "from 192.0.2.7", "Request      enroll at endpoint ran (est)"}},
		"refused": {txID(2)[:12], "The holder of certificate 67acd17222f3…, asking to renew CN=victim, was refused by the stage own-certificate: the request asks for subject CN=victim, the certificate has CN=device-0002",
			[]string{"not-authorized: the requester is known, but may not do this", "deny           anyOf  (not-authorized)", "      deny           own-certificate  (not-authorized)  92µs"}},
		"a stranger": {txID(1)[20:], `A stranger from 192.0.2.7, asking to enroll CN=\x1b[2Jevil\u202e, was refused by the stage password: no user \x1b[31m"x"\r\nfaked line`,
			[]string{"unauthenticated: a password", "nobody authenticated", "in memory only"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := runCommand(newExplainCommand(), "--data", dir, c.id)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(out, "\n"); first != c.first {
				t.Errorf("first line\n%s\nwant\n%s", first, c.first)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
			unseen(t, out)
		})
	}
	out, err := runCommand(newExplainCommand(), "--socket", filepath.Join(dir, adminSocket), "--json", txID(2))
	var tx admin.Transaction
	if err != nil || json.Unmarshal([]byte(out), &tx) != nil || tx.ID != txID(2) || tx.Verdicts[0].Parts[0].Stage != "own-certificate" {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := runCommand(newExplainCommand(), "--data", dir, "06gzsq"); err == nil || !strings.Contains(err.Error(), "\n  "+txID(3)) {
		t.Errorf("an ambiguous part: %v", err)
	}
	if _, err := runCommand(newExplainCommand(), "--data", dir, "zzzzzz"); err == nil || !strings.Contains(err.Error(), "no transaction") {
		t.Errorf("an unknown one: %v", err)
	}
}

// Every state and reason has its words.
func TestExplainKnowsEverything(t *testing.T) {
	for _, reason := range gateway.Reasons {
		if reasons[reason] == "" {
			t.Errorf("no words for the reason %s", reason)
		}
	}
	for _, state := range []gateway.State{
		gateway.StateRefused, gateway.StateHeld, gateway.StateIssuing, gateway.StateUnknown, gateway.StateWaiting, gateway.StateStuck, gateway.StateIssued, gateway.StateFailed,
	} {
		if states[state] == "" {
			t.Errorf("no words for the state %s", state)
		}
		first, _, _ := strings.Cut(account(&admin.Transaction{State: string(state), Device: "d", Note: "because"}, received), "\n")
		if !strings.HasPrefix(first, "Device d") || len(first) < 20 || state != gateway.StateIssued && !strings.Contains(first, "because") {
			t.Errorf("%s: %s", state, first)
		}
	}
}

func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	for _, cmd := range []*cobra.Command{newLsCommand(), newExplainCommand()} {
		args := []string{"--data", dir}
		if cmd.Name() == "explain" {
			args = append(args, txID(1))
		}
		_, err := runCommand(cmd, args...)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, adminSocket)) || !strings.Contains(err.Error(), "`muster serve`") || !strings.Contains(err.Error(), "--data") {
			t.Errorf("%s: %v", cmd.Name(), err)
		}
	}
	for want, args := range map[string][]string{
		"invalid argument":                 {"devices"},
		"--limit 0":                        {"--limit", "0"},
		"--valid does not go":              {"--valid"},
		"--state does not go":              {"certificates", "--state", "issued"},
		"[data socket]":                    {"--data", dir, "--socket", dir},
		"accepts at most 1":                {"transactions", "certificates"},
		"unknown flag: --stat":             {"--stat", "issued"},
		filepath.Join(dir, "other.sock"):   {"--socket", filepath.Join(dir, "other.sock")},
		"muster-data/" + adminSocket + ":": {},
	} {
		if _, err := runCommand(newLsCommand(), args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	for _, args := range [][]string{{}, {""}, {"a", "b"}} {
		if _, err := runCommand(newExplainCommand(), args...); err == nil || !strings.Contains(err.Error(), "explain wants one ID") {
			t.Errorf("explain %q: %v", args, err)
		}
	}
	served := serveAdmin(t, &records{})
	if _, err := runCommand(newLsCommand(), "--data", served, "--state", "isued"); err == nil || !strings.Contains(err.Error(), `no state "isued"`) {
		t.Errorf("a misspelt state: %v", err)
	}
	if _, err := os.Stat(filepath.Join(served, adminSocket)); err != nil {
		t.Error(err)
	}
}

// What a device has not confirmed, or refused, is told as such; its wait ends where the gateway ends it.
func TestExplainConfirmation(t *testing.T) {
	certified := func(x *gateway.Transaction) {
		x.Protocol, x.Requester, x.Backend, x.ConfirmWait = gateway.CMP, "mac-key:SN0001", "local", 5*time.Minute
		x.Certificate = &gateway.Certificate{Serial: []byte{1}, Subject: "CN=device-1", NotBefore: received, NotAfter: received.AddDate(100, 0, 0)}
	}
	dir := serveAdmin(t, &records{stored: []*gateway.Transaction{
		storedTransaction(2, gateway.StateUnconfirmed, certified),
		storedTransaction(1, gateway.StateRejected, func(x *gateway.Transaction) {
			certified(x)
			x.Note = "not confirmed within 5m0s: to be revoked"
		}),
	}})
	for id, want := range map[string][]string{
		txID(2): {
			"The holder of shared secret SN0001, asking to enroll CN=device-1, was issued a certificate, which waits for the device's confirmation until 2026-03-01 12:05:00 UTC\n",
			"unconfirmed: issued", "Confirm by 2026-03-01 12:05:00 UTC",
		},
		txID(1): {"was issued a certificate that counts no more: not confirmed within 5m0s: to be revoked\n", "rejected: issued, and refused by the device or not confirmed in time"},
	} {
		out, err := runCommand(newExplainCommand(), "--data", dir, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("lacks %q:\n%s", w, out)
			}
		}
		if id == txID(1) && strings.Contains(out, "Confirm by") {
			t.Errorf("a confirmation is waited for:\n%s", out)
		}
	}
	for state, want := range map[string]string{"unconfirmed": txID(2), "rejected": txID(1)} {
		if out, err := runCommand(newLsCommand(), "--data", dir, "--state", state); err != nil || !strings.Contains(out, want) || strings.Count(out, "\n") != 2 {
			t.Errorf("%s: %v\n%s", state, err, out)
		}
	}
	if got := requesterOf(&admin.Transaction{Requester: "challenge:factory"}); got != "The holder of challenge factory" {
		t.Error(got)
	}
}

// The one line is one that a person reads, whatever a device put into its names, and says what was wrong.
func TestExplainInOneLine(t *testing.T) {
	long := strings.Repeat("S", 3000)
	for want, tx := range map[string]*admin.Transaction{
		"A stranger, asking to enroll CN=" + strings.Repeat("S", 92) + "…, was refused by the stage vendor-ca: message-signer CN=": {
			State: "refused", Operation: "enroll", Subject: "CN=" + long,
			Verdicts: []admin.Verdict{{Stage: "vendor-ca", Decision: "deny", Note: "message-signer CN=" + long + ": it has two serial numbers"}},
		},
		"Device SSSS": {State: "failed", Operation: "enroll", Device: long, Note: "rpc error: code = InvalidArgument desc = local: " + long + ": it has two serial numbers"},
		"User SSSS":   {State: "rejected", Operation: "enroll", Requester: "password:" + long, Note: long + ": it has two serial numbers"},
	} {
		got := summary(tx, time.Now())
		if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ": it has two serial numbers") || len([]rune(got)) > 700 || strings.Contains(got, "rpc error") {
			t.Errorf("%d characters: %s", len([]rune(got)), got)
		}
	}
	if got := desc("the CA refused: rpc error: code = InvalidArgument desc = local: the extension"); got != "the CA refused: local: the extension" {
		t.Error(got)
	}
}
