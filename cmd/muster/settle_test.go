package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

func TestSettle(t *testing.T) {
	issued, failed := heldTransaction(), heldTransaction()
	issued.State, issued.Certificate = "issued", &admin.Certificate{Serial: "abcd", NotBefore: received, NotAfter: received.AddDate(1, 0, 0)}
	failed.State = "failed"
	linted := issued
	linted.State, linted.Note = "failed", "the lint said no"
	dir, asked := fakeAPI(t, map[string]any{
		"POST /v1/transactions/one/settle": issued, "POST /v1/transactions/two/settle": failed, "POST /v1/transactions/three/settle": linted,
		"POST /v1/transactions/other/settle": refusedWith{409, admin.Failure{Error: "it is not the certificate that was asked for: another public key"}},
	})
	file := filepath.Join(t.TempDir(), "found.pem")
	if err := os.WriteFile(file, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	last := func(calls []string) string { return calls[len(calls)-1] }
	run := func(args ...string) (string, error) {
		return runCommand(newSettleCommand(), append(args, "--data", dir)...)
	}
	out, err := run("one", "--issued", file, "--note", "in its database")
	if err != nil || last(asked()) != `POST /v1/transactions/one/settle {"certificate":"PEM","note":"in its database"}` {
		t.Error(err, asked())
	}
	says(t, out, "Settled: the certificate is recorded", "Device       phone-7\n", "Serial       abcd\n")
	if out, err = run("two", "--never"); err != nil || last(asked()) != `POST /v1/transactions/two/settle {"never":true}` {
		t.Error(err)
	}
	says(t, out, "Settled: nothing was issued; the device may ask anew\n")
	if out, err = run("three", "--issued", file); err != nil {
		t.Error(err)
	}
	says(t, out, "Settled: the certificate is recorded, and revoked: the lint said no\n")
	if _, err := run("other", "--issued", file); err == nil || !strings.Contains(err.Error(), "another public key") {
		t.Error(err)
	}
	large := filepath.Join(t.TempDir(), "large.pem")
	if err := os.WriteFile(large, make([]byte, maxFinding+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"say what you found": {"one"}, "--issued FILE or --never": {"one", "--never", "--issued", file}, "no such file": {"one", "--issued", file + "x"}, "more than": {"one", "--issued", large},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
