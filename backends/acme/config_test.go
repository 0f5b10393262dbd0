package acme

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/command"
)

func TestConfigErrors(t *testing.T) {
	good := "url: https://ca/dir\naccount-key: /a.pem\nchain: /c.pem\n"
	solver := "http-01: {dir: /w}\n"
	for _, test := range []struct{ config, want string }{
		{"", "url"},
		{good, "http-01: one of"},
		{strings.Replace(good, "https", "http", 1) + solver, "wants https"},
		{strings.Replace(good, "/a.pem", "a.pem", 1) + solver, `config:2: account-key: "a.pem" is not an absolute path`},
		{good + "http-01: {dir: w}", "absolute"},
		{good + "http-01: {dir: /w, present: [/p]}", "leave out"},
		{good + "http-01: {}", "or a folder"},
		{good + "dns-01: {present: [/p]}", "cleanup"},
		{good + "dns-01: {present: [p], cleanup: [/c]}", "present: "},
		{good + "dns01: {}", `did you mean "dns-01"`},
		{good + solver + "external-account: {kid: x}", "key"},
		{good + solver + "external-account: {kid: x, key: y}", "absolute"},
		{good + solver + "contact: [me]", "mailto"},
		{good + solver + "hook-timeout: 1m", "15s"},
		{good + solver + "env: {\"A=\": b}", "variable"},
	} {
		err := New(Options{}).Validate(t.Context(), []byte(test.config))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.config, err)
		}
	}
	if err := New(Options{}).Validate(t.Context(), []byte(good+solver)); err != nil {
		t.Error(err)
	}
}

func TestAccountKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account.pem")
	first, err := openAccountKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if second, err := openAccountKey(path); err != nil || second.id != first.id {
		t.Errorf("another key: %v", err)
	}
	if text := fmt.Sprintf("%v %+v", first, first); strings.Contains(text, "D:") || len(text) > 100 {
		t.Errorf("it prints the key: %s", text)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openAccountKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
}

// TestTerms: nothing is agreed to, and no account bound, that nobody said.
func TestTerms(t *testing.T) {
	f := newFake(t)
	f.mac = []byte("0123456789abcdef")
	c := New(Options{})
	config := string(f.config(t))
	if err := c.Configure(t.Context(), []byte(strings.Replace(config, "terms-agreed: true", "", 1))); err != nil {
		t.Fatal(err)
	}
	r := request(t, "a.example.org")
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "terms") {
		t.Error(err)
	}
	config, _, _ = strings.Cut(config, "external-account")
	if err := c.Configure(t.Context(), []byte(config)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("configured twice: %v", err)
	}
	c = New(Options{})
	if err := c.Configure(t.Context(), []byte(config)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "external-account") {
		t.Error(err)
	}
	if len(f.accounts) > 0 {
		t.Error("there is an account")
	}
}

// TestHook: a program learns of the challenge by its environment, and one that fails is asked again.
func TestHook(t *testing.T) {
	dir := t.TempDir()
	script := func(code int) command.Argv {
		return command.Argv{"/bin/sh", "-c", fmt.Sprintf(`echo "$ACME_HOOK $ACME_CHALLENGE $ACME_IDENTIFIER $ACME_TOKEN $ACME_KEY_AUTHORIZATION $ACME_RECORD $ACME_VALUE" >>%s/out; exit %d`, dir, code)}
	}
	c, err := parseConfig(fmt.Appendf(nil, "url: https://ca/\naccount-key: /a\nchain: /c\ndns-01: {present: [/bin/true], cleanup: [/bin/true]}"))
	if err != nil {
		t.Fatal(err)
	}
	p := &programs{&Hook{Present: script(0), Cleanup: script(1)}, c, slog.New(slog.DiscardHandler)}
	// RFC 8555 section 8.4: the value is base64url of the SHA-256 of the key authorization.
	ch := &challenge{kind: dns01, identifier: "example.org", token: "-t", answer: "-t.thumb"}
	if err := p.present(context.Background(), ch); err != nil {
		t.Error(err)
	}
	if err := p.cleanup(context.Background(), ch); err == nil {
		t.Error("an exit code of 1 is success")
	}
	got, err := os.ReadFile(filepath.Join(dir, "out"))
	line := "dns-01 example.org -t -t.thumb _acme-challenge.example.org "
	if err != nil || !strings.HasPrefix(string(got), "present "+line) || !strings.Contains(string(got), "\ncleanup "+line) {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestToken: a token is a file's name, and comes from the CA.
func TestToken(t *testing.T) {
	for token, want := range map[string]bool{"abc-_09": true, "../x": false, "a/b": false, "": false, ".": false, strings.Repeat("a", 201): false} {
		if tokens.MatchString(token) != want {
			t.Errorf("%q: %t", token, !want)
		}
	}
}

func TestRevoke(t *testing.T) {
	f := newFake(t)
	c := configured(t, f)
	r := &backend.RevokeRequest{Issuer: f.root.RawSubject, Serial: []byte{1}, Certificate: f.root.Raw, Reason: 6}
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("a certificate that the CA does not know: %v", err)
	}
	r.Certificate = nil
	if err := c.Revoke(t.Context(), r); status.Code(err) != codes.NotFound {
		t.Errorf("without the certificate: %v", err)
	}
}
